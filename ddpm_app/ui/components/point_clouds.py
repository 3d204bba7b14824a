"""The three ways to a class side by side: points of each, and a slider for the guidance scale."""

from __future__ import annotations

from ddpm_app.ui.components.base import Component


class PointClouds(Component):
    description = "Points of the three ways to a class."
