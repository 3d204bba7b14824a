"""Progress, plots and table of an experiment of the lab, each as HTML."""

from __future__ import annotations

import html

from ddpm_app.ui.components.base import Component


class ExperimentOutput(Component):
    def __init__(self, **options):
        super().__init__("", **options)


def progress(fraction: float, text: str) -> str:
    return f"<progress max='1' value='{fraction:.3f}' aria-label='Experiment'></progress> {fraction:.0%} {html.escape(text)}"
