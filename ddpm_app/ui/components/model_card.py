"""A model's card as HTML: facts, measured numbers with their protocol, and the sample grid. All text is escaped."""

from __future__ import annotations

import html

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.checkpoints.facts import model_facts
from ddpm_app.images import render
from ddpm_app.ui.components.base import Component


class ModelCard(Component):
    """Its value is card_html of a checkpoint."""


def card_html(checkpoint: Checkpoint) -> str:
    """Facts, measured numbers with their protocol and the sample grid. All text is escaped: a checkpoint may be a download."""
    f, e = model_facts(checkpoint), lambda v: html.escape(str(v))
    facts = [
        ("Data", f"{f['data']}, {f['image']}, {len(f['classes'])} classes"),
        ("Architecture", f"U-Net, {f['channels']} channels x {'-'.join(map(str, f['multipliers']))}, {f['blocks']} blocks a level"),
        ("Parameters", f"{f['parameters'] / 1e6:.2f} M"),
        ("Predicts", f"{f['row']}, {f['schedule']} schedule, T = {f['T']}"),
        ("Images seen", f"{f['images_seen']:,}"),
        ("EMA", f["ema"] or "unknown"),
        ("Place", f["place"]),
    ]
    rows = "".join(f"<dt>{e(k)}</dt><dd>{e(v)}</dd>" for k, v in facts)
    metrics = "".join(
        f"<tr><td>{e(m.get('name'))}</td><td class='num'>{_number(m.get('value'))}</td><td>{e(m.get('protocol'))}</td></tr>"
        for m in f["metrics"]
        if isinstance(m, dict)
    )
    metrics += f"<tr><td colspan='3'>{e(f['metrics_error'])}</td></tr>" if f["metrics_error"] else ""
    table = (
        f"<table><thead><tr><th>Measured</th><th>Value</th><th>Protocol</th></tr></thead><tbody>{metrics}</tbody></table>"
        if metrics
        else "<p class='none'>No measured numbers are stored with this model.</p>"
    )
    samples = checkpoint.path / "samples.png"
    picture = samples if samples.is_file() else max((checkpoint.path / "samples").glob("*.png"), default=None)  # of a run: its newest grid
    image = f"<img alt='Samples of {e(checkpoint.name)}, one row a class' src='{render.data_url(picture.read_bytes())}'>" if picture else ""
    return f"<div class='card'><div><h3>{e(checkpoint.name)}</h3><dl>{rows}</dl></div><div>{image}</div></div>{table}"


def _number(value) -> str:
    return f"{value:.4g}" if isinstance(value, (int, float)) else html.escape(str(value))
