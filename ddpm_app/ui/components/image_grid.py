"""A grid of generated images, live, then each image with its settings and its PNG."""

from __future__ import annotations

from ddpm_app.studio import exports
from ddpm_app.ui.components.base import Component, b64
from ddpm_app.ui.replay import RECORDINGS


def zip_of(query: dict) -> str | None:
    """base64 ZIP of a finished grid's PNGs; None if the run is no longer kept. The query comes from the browser and may be any value."""
    recording = RECORDINGS.get(query.get("run")) if isinstance(query, dict) else None
    return b64(exports.images_zip(recording.frames)) if recording and recording.frames else None


class ImageGrid(Component):
    """Triggers recall with {png: base64} to restore the settings of an image."""

    description = "A grid of generated images: run id, labels, base64 PNGs."
    server_functions = (zip_of,)
