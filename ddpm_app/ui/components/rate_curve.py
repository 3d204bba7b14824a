"""A progressive code while it is received: original beside decoded image, scrubbed by bits; curves of rate, distortion and cost."""

from __future__ import annotations

from ddpm_app.ui.components.base import Component
from ddpm_app.ui.components.player import export_animation, frames_missing


class RateCurve(Component):
    description = "New states of a progressive code: run id, first index, base64 images, bits, errors."
    server_functions = (frames_missing, export_animation)
