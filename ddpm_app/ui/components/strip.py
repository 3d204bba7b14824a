"""A strip of images from one end of an interpolation to the other, live."""

from __future__ import annotations

from ddpm_app.ui.components.base import Component


class Strip(Component):
    description = "A strip of images between two ends: run id, base64 PNG, labels, progress."
