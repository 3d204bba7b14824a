"""A picture that dissolves into noise, computed in the browser."""

from __future__ import annotations

from ddpm_app.ui.components.base import Component


class NoiseView(Component):
    description = "A picture, its noise and the schedules' alpha_bar."
