"""An experiment's rows as CSV and as an aligned table, and the lists of numbers that people type."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from ddpm_app.toy.sweeps import over_seeds


def parse_numbers(text: str, kind: Callable[[str], object]) -> list:
    """Turn text such as 1,2,3 into a list. kind: int, float or str. Raises ValueError."""
    try:
        return [kind(part.strip()) for part in text.split(",") if part.strip()]
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not numbers separated by commas") from None


def parse_pairs(text: str) -> list[tuple[float, float]]:
    """Turn text such as 1e-4:0.02,0.001:0.1 into pairs. Raises ValueError."""
    try:
        return [(float(low), float(high)) for low, high in (part.split(":") for part in text.split(",") if part.strip())]
    except ValueError:
        raise ValueError(f"{text[:40]!r} is not start:end, separated by commas") from None


def columns(rows: Sequence[dict]) -> list[str]:
    """The keys of all rows, in order of appearance."""
    return list(dict.fromkeys(k for row in rows for k in row))


def to_csv(rows: Sequence[dict]) -> str:
    """Rows as CSV. None is an empty cell."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns(rows), lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def summarise(rows: Sequence[dict], experiment: str) -> list[dict]:
    """The rows to show: of a sweep, the mean and spread over its seeds beside the true values; of another experiment, all rows."""
    if experiment not in ("steps", "schedules") or not rows:
        return list(rows)
    lines = over_seeds(rows, ("T",) if experiment == "steps" else ("schedule",), ("nll ode", "nll bound", "emd"))
    return [{**line, **{k: rows[0][k] for k in ("nll true", "emd data to data")}} for line in lines]


def cell(value) -> str:
    """A value of a row as text; floats have four significant digits."""
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def to_table(rows: Sequence[dict]) -> str:
    """Rows as text with aligned columns."""
    if not rows:
        return "no rows"
    names = columns(rows)
    table = [names] + [[cell(row.get(k)) for k in names] for row in rows]
    widths = [max(len(line[k]) for line in table) for k in range(len(names))]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths)) for line in table)
