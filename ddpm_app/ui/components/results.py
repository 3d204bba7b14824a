"""Measured numbers of a model: progress, the table of results, and the details of each number."""

from __future__ import annotations

from ddpm_app.ui.components.base import Component


class Results(Component):
    description = "Measured numbers of a model with their protocols, and how far a run is."
