"""An experiment's rows as CSV and as a table; lists of numbers as people type them."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence

from ddpm_app.toy.sweeps import summary


def numbers(kind):
    def parse(text: str) -> list:
        try:
            return [kind(part) for part in text.split(",") if part.strip()]
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not numbers separated by commas") from None

    return parse


def pairs(text: str) -> list[tuple[float, float]]:
    try:
        return [(float(low), float(high)) for low, high in (part.split(":") for part in text.split(",") if part.strip())]
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not start:end, separated by commas") from None


def to_csv(rows: Sequence[dict]) -> str:
    """Rows of one table; None is an empty cell."""
    out = io.StringIO()
    names = list(dict.fromkeys(k for row in rows for k in row))
    writer = csv.DictWriter(out, names, lineterminator="\n", restval="")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def over_seeds(rows: Sequence[dict], experiment: str) -> list[dict]:
    """What people are shown of a sweep: mean and spread over its seeds, beside the truth; the rows of any other experiment."""
    if experiment not in ("steps", "schedules") or not rows:
        return list(rows)
    lines = summary(rows, ("T",) if experiment == "steps" else ("schedule",), ("nll ode", "nll bound", "emd"))
    return [{**line, "nll true": rows[0]["nll true"], "emd floor": rows[0]["emd floor"]} for line in lines]


def to_table(rows: Sequence[dict]) -> str:
    """The same for people: columns aligned, four significant digits."""
    if not rows:
        return "no rows"
    names = list(dict.fromkeys(k for row in rows for k in row))

    def cell(v) -> str:
        return "" if v is None else f"{v:.4g}" if isinstance(v, float) else str(v)

    table = [names] + [[cell(row.get(k)) for k in names] for row in rows]
    widths = [max(len(line[k]) for line in table) for k in range(len(names))]
    return "\n".join("  ".join(c.rjust(w) for c, w in zip(line, widths)) for line in table)
