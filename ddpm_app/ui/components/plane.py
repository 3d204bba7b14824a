"""The plane of the lab: data, moving particles, contours and a vector field, drawn in the browser."""

from __future__ import annotations

from ddpm_app.ui.components.base import Component


class Plane(Component):
    """Triggers sketch with {strokes: [[[x, y], ...], ...]}, positions in -1..1, after a visitor has drawn data."""

    description = "Points, particles and fields of the plane."
