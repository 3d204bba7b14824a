"""Measured numbers of a checkpoint. Only this module reads and writes them.

Numbers are written to metrics.json beside the weights. They are read from metrics.json and from `metrics` in config.json, where older
versions of the program stored them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.files import plain, write_atomically

SUMMARY = ("n", "loss", "sampler", "evaluations", "grid", "guidance", "seed", "precision", "reference", "images", "noise")


@dataclass(frozen=True)
class Measurement:
    """One measured number.

    name:      as in tables: FD-classifier, agreement, bpd-bound, ...
    value:     the number
    error:     one standard error, NaN where unknown
    detail:    the parts of the value
    protocol:  how it was measured
    """

    name: str
    value: float
    error: float
    detail: dict
    protocol: dict


def stored_measurements(checkpoint: Checkpoint) -> list[dict]:
    """All stored numbers of a checkpoint, oldest first: those of config.json, then those of metrics.json.

    Each has "name", "value" and "protocol": a sentence in config.json, a dict in metrics.json. Raises ValueError for a metrics.json
    that is damaged."""
    return [*filter(_is_row, checkpoint.config.metrics), *_read(checkpoint.path / "metrics.json")]


def card_rows(checkpoint: Checkpoint) -> list[dict]:
    """The stored numbers for a model card: "name", "value", "protocol" (one line) and, from metrics.json, "settings" (the protocol).

    Of several numbers with the same name and protocol line, only the newest is returned. Numbers of other weights of the same run are
    left out. Raises ValueError for a damaged metrics.json."""
    rows = {}
    for row in stored_measurements(checkpoint):
        protocol = row.get("protocol")
        if isinstance(protocol, dict):
            if not _same_weights(protocol, checkpoint):
                continue
            row = {"name": row["name"], "value": row["value"], "protocol": summary(row), "settings": protocol}
        rows[row["name"], str(row.get("protocol"))] = row
    return list(rows.values())


def store(checkpoint: Checkpoint, *measurements: Measurement) -> Path:
    """Append measurements to the checkpoint's metrics.json. The file is replaced atomically. Returns its path."""
    file = checkpoint.path / "metrics.json"
    rows = [*_read(file), *(plain(asdict(m)) for m in measurements)]
    write_atomically(file, json.dumps(rows, indent=1))
    return file


def copy_measurements(source: Checkpoint, target: Checkpoint) -> None:
    """Replace the metrics.json of `target` by the numbers of `source`. Both hold the same weights."""
    rows = [row for row in _read(source.path / "metrics.json") if _same_weights(row.get("protocol"), source)]
    for row in rows:
        if "images_seen" in row["protocol"]:  # a shipped model also counts the images of earlier runs
            row["protocol"]["images_seen"] = target.config.images_seen
    (target.path / "metrics.json").unlink(missing_ok=True)
    if rows:
        write_atomically(target.path / "metrics.json", json.dumps(rows, indent=1))


def summary(row: dict) -> str:
    """One line about a row of metrics.json: its interval, the value for real test images, and the main settings of its protocol."""
    protocol, detail = row["protocol"], row.get("detail") if isinstance(row.get("detail"), dict) else {}
    interval, real = detail.get("95 %"), detail.get("real test images")
    parts = ["95 % " + " to ".join(f"{v:.4f}" for v in interval)] if _numbers(interval) else []
    parts += [f"real test images {real:.4g}"] if _numbers([real]) else []
    return "; ".join([*parts, ", ".join(f"{key} {protocol[key]}" for key in SUMMARY if key in protocol)])


def _read(file: Path) -> list[dict]:
    try:
        rows = json.loads(file.read_text()) if file.exists() else []
    except (ValueError, OSError) as error:  # UnicodeDecodeError is a ValueError
        raise ValueError(f"{file} is cut short or not JSON; move it away first") from error
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise ValueError(f"{file} does not hold measured numbers; move it away first")
    return rows


def _same_weights(protocol, checkpoint: Checkpoint) -> bool:
    """Whether a number was measured on the checkpoint's present weights. A run may have numbers of earlier weights."""
    present = {"ema": checkpoint.config.ema, "images_seen": checkpoint.config.images_seen}
    return isinstance(protocol, dict) and all(protocol.get(key, value) == value for key, value in present.items())


def _is_row(row) -> bool:
    return isinstance(row, dict) and isinstance(row.get("name"), str) and "value" in row


def _numbers(values) -> bool:
    return isinstance(values, list) and all(isinstance(v, (int, float)) for v in values)
