"""An experiment's rows as plots in SVG and as an HTML table. The page styles the plots; `to_file` adds a style of its own.

Several values at one x (the seeds of a sweep) are drawn as their mean, with a bar of one standard deviation up and down.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from ddpm_app.toy.tables import cell, columns

COLOURS = ("#6366f1", "#d97706", "#0d9488", "#db2777", "#65a30d", "#0284c7", "#9333ea", "#dc2626")
W, H, LEFT, TOP, RIGHT = 390, 260, 58, 26, 12
SIDE = 240  # of a square of decision regions


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    x, y: the columns to plot
    group: the column that separates the lines
    reference: a column drawn as a dashed line, the value that a perfect model would have
    log: the logarithmic axes, "x", "y", "xy" or ""
    error: the column with y's standard error"""

    x: str
    y: str
    group: str | None = None
    reference: str | None = None
    log: str = ""
    error: str | None = None


PANELS: dict[str, tuple[Panel, ...]] = {
    "steps": (
        Panel("T", "nll ode", None, "nll true", "x"),
        Panel("T", "nll bound", None, "nll true", "x"),
        Panel("T", "emd", None, "emd data to data", "xy"),
    ),
    "schedules": (
        Panel("schedule", "nll ode", None, "nll true"),
        Panel("schedule", "nll bound", None, "nll true"),
        Panel("schedule", "emd", None, "emd data to data"),
    ),
    "solvers": (Panel("evaluations", "error", "sampler", None, "xy"), Panel("evaluations", "emd", "sampler", "emd data to data", "xy")),
    "classes": (
        Panel("scale", "emd", "method", "emd data to data"),
        Panel("scale", "nll", "method", "nll true", error="nll error"),
        Panel("scale", "accuracy", "method"),
    ),
    "classifier": (Panel("classifier", "accuracy", error="error"),),
    "likelihood": (Panel("quantity", "nats", "of", error="error"),),
}


def table(rows: Sequence[dict], csv_text: str, name: str) -> str:
    """An HTML table of rows, and a link that saves csv_text as name.csv."""
    if not rows:
        return ""
    names = columns(rows)
    head = "".join(f"<th scope='col'>{html.escape(n)}</th>" for n in names)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell(row.get(n)))}</td>" for n in names) + "</tr>" for row in rows)
    data = base64.b64encode(csv_text.encode()).decode()
    link = f"<a class='csv' download='{html.escape(name, quote=True)}.csv' href='data:text/csv;base64,{data}'>Download CSV</a>"
    return f"<div class='rows' tabindex='0'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{link}"


def plot(rows: Sequence[dict], experiment: str) -> list[str]:
    """The experiment's panels, an <svg> each. A panel without numbers is left out."""
    return [svg for p in PANELS[experiment] if (svg := _panel(rows, p))]


def to_file(pictures: Sequence[str]) -> str:
    """Panels side by side, three in a row, as one SVG document with its own style."""
    per_row, lines = min(3, max(len(pictures), 1)), -(-len(pictures) // 3)
    inner = "".join(f"<g transform='translate({W * (k % 3)} {(H + 10) * (k // 3)})'>{p}</g>" for k, p in enumerate(pictures))
    style = "line,.axis{stroke:#cbd5e1}text{fill:#334155;font:11px sans-serif}.edge{stroke:#0f172a}"
    size = f"width='{W * per_row}' height='{(H + 10) * lines}'"
    background = "<rect width='100%' height='100%' fill='#fff'/>"
    return f"<svg xmlns='http://www.w3.org/2000/svg' {size}><style>{style}</style>{background}{inner}</svg>\n"


# -- one pair of axes -----------------------------------------------------------------------------------------------------


def _series(rows: Sequence[dict], panel: Panel, place) -> dict[str, list[tuple[float, float, float]]]:
    """name -> [(x, y, half length of y's bar)], x ascending."""
    groups: dict[str, dict[float, list[dict]]] = {}
    for row in rows:
        name = str(row[panel.group]) if panel.group else panel.y
        groups.setdefault(name, {}).setdefault(place(row[panel.x]), []).append(row)
    lines = {}
    for name, at in groups.items():
        lines[name] = []
        for x, members in sorted(at.items()):
            values = [m[panel.y] for m in members]
            bar = stdev(values) if len(values) > 1 else (members[0].get(panel.error) or 0.0)
            lines[name].append((x, mean(values), bar))
    return lines


def _ticks(low: float, high: float, logarithmic: bool) -> list[float]:
    """Round numbers from low to high: 1, 2, 5 times powers of ten."""
    if logarithmic:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        steps = (1,) if len(decades) > 4 else (1, 2, 5)
        return [m * 10.0**k for k in decades for m in steps if low * 0.999 <= m * 10.0**k <= high * 1.001]
    step = 10 ** math.floor(math.log10((high - low) / 3))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 6)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _panel(rows: Sequence[dict], panel: Panel) -> str:
    log_y, log_x = "y" in panel.log, "x" in panel.log
    groups = list(dict.fromkeys(str(r[panel.group]) if panel.group else panel.y for r in rows))  # the same colours in all panels
    rows = [r for r in rows if (v := r.get(panel.y)) is not None and math.isfinite(v) and (not log_y or v > 0)]
    if not rows:
        return ""
    categorical = isinstance(rows[0][panel.x], str)
    names = list(dict.fromkeys(r[panel.x] for r in rows))
    lines = _series(rows, panel, (lambda v: float(names.index(v))) if categorical else float)
    right = 118 if panel.group else RIGHT
    bottom = 66 if categorical and len(names) > 4 else 40
    fx, fy = (math.log10 if log_x else float), (math.log10 if log_y else float)
    reference = next((v for r in rows if panel.reference and (v := r.get(panel.reference)) is not None and (not log_y or v > 0)), None)
    ys = [v for line in lines.values() for _, y, bar in line for v in (y - bar, y + bar) if not log_y or v > 0]
    ys += [y for line in lines.values() for _, y, _ in line] + ([reference] if reference is not None else [])
    y0, y1 = min(ys), max(ys)
    if log_y:
        y0, y1 = y0 / 1.1, y1 * 1.1
    else:
        gap = 0.06 * (y1 - y0) or 0.05 * abs(y1) or 1.0
        y0, y1 = y0 - gap, y1 + gap
    xs = [x for line in lines.values() for x, _, _ in line]
    x0, x1 = (-0.5, len(names) - 0.5) if categorical else (min(xs), max(xs))
    if x1 <= x0:
        x0, x1 = (x0 / 2, x1 * 2) if log_x else (x0 - 1, x1 + 1)

    def px(x: float) -> float:
        return LEFT + (fx(x) - fx(x0)) / (fx(x1) - fx(x0)) * (W - LEFT - right)

    def py(y: float) -> float:
        return H - bottom - (fy(max(y, y0)) - fy(y0)) / (fy(y1) - fy(y0)) * (H - bottom - TOP)

    parts = [f"<text x='{LEFT}' y='14'>{html.escape(panel.y)}</text>"]
    for y in _ticks(y0, y1, log_y):
        parts.append(f"<line x1='{LEFT}' x2='{W - right}' y1='{py(y):.1f}' y2='{py(y):.1f}'/>")
        parts.append(f"<text x='{LEFT - 6}' y='{py(y) + 4:.1f}' text-anchor='end'>{y:.4g}</text>")
    for x, label in enumerate(names) if categorical else [(x, f"{x:g}") for x in _ticks(x0, x1, log_x)]:
        at, text = px(x), html.escape(str(label).replace("linear ", ""))
        rotation = f" transform='rotate(-28 {at:.1f} {H - bottom + 14})' text-anchor='end'" if bottom > 40 else " text-anchor='middle'"
        parts.append(f"<text x='{at:.1f}' y='{H - bottom + 16}'{rotation}>{text}</text>")
    parts.append(f"<text x='{(LEFT + W - right) / 2}' y='{H - 4}' text-anchor='middle'>{html.escape(panel.x)}</text>")
    if reference is not None:
        where = f"x1='{LEFT}' x2='{W - right}' y1='{py(reference):.1f}' y2='{py(reference):.1f}'"
        parts.append(f"<line class='reference' {where} stroke-dasharray='5 4' style='stroke:#dc2626'/>")
        parts.append(f"<text x='{W - right}' y='14' text-anchor='end' style='fill:#dc2626'>- - {html.escape(panel.reference)}</text>")
    for k, (name, line) in enumerate(lines.items()):
        colour = COLOURS[groups.index(name) % len(COLOURS)]
        parts += _line(line, colour, px, py, categorical, (k - (len(lines) - 1) / 2) * 0.14 if categorical else 0.0, W - right)
        order = next((r["fitted order"] for r in rows if r.get(panel.group or "") == name and r.get("fitted order") is not None), None)
        label = html.escape(name) + (f", {order:.1f}" if order is not None and panel.y == "error" else "")
        if panel.group:
            parts.append(f"<text x='{W - right + 8}' y='{TOP + 10 + 16 * k}' style='fill:{colour}'>{label}</text>")
    if panel.y == "error":
        parts.append(f"<text x='{W - right + 8}' y='14'>fitted order</text>")
    label = html.escape(f"{panel.y} against {panel.x}", quote=True)
    return f"<svg class='lines' width='{W}' height='{H}' viewBox='0 0 {W} {H}' role='img' aria-label='{label}'>{''.join(parts)}</svg>"


def _line(line: list[tuple[float, float, float]], colour: str, px, py, categorical: bool, shift: float, end: float) -> list[str]:
    style = f"style='stroke:{colour}'"
    if not categorical and len(line) == 1:  # a single value: a line across the plot, to compare with
        y = py(line[0][1])
        return [f"<line x1='{LEFT}' x2='{end}' y1='{y:.1f}' y2='{y:.1f}' {style} stroke-width='2'/>"]
    parts = []
    if not categorical:
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y, _ in line)
        parts.append(f"<polyline points='{path}' fill='none' {style} stroke-width='2'/>")
    for x, y, bar in line:
        at = px(x + shift)
        if bar:
            parts.append(f"<line x1='{at:.1f}' x2='{at:.1f}' y1='{py(y - bar):.1f}' y2='{py(y + bar):.1f}' {style} stroke-width='1.5'/>")
        parts.append(f"<circle cx='{at:.1f}' cy='{py(y):.1f}' r='{4 if categorical else 3}' fill='{colour}'/>")
    return parts


# -- decision regions -----------------------------------------------------------------------------------------------------


def regions(name: str, grid: Sequence[Sequence[int]], box: Sequence[float], points: Sequence[Sequence[float]], label: Sequence[int]) -> str:
    """A square coloured by a classifier's decision, the decision boundary, and points coloured by their class.

    grid: classes (side, side) with the lowest y first, over box = (x0, y0, x1, y1). points: (n, 2) in the box's units."""
    side, size, parts = len(grid), SIDE / len(grid), []
    for i, row in enumerate(grid):
        y, j = SIDE - (i + 1) * size, 0
        while j < side:  # neighbouring cells of one class become one rectangle
            k = next((k for k in range(j, side) if row[k] != row[j]), side)
            colour = COLOURS[row[j] % len(COLOURS)]
            parts.append(
                f"<rect x='{j * size:.1f}' y='{y:.1f}' width='{(k - j) * size:.1f}' height='{size:.1f}' fill='{colour}' opacity='.22'/>"
            )
            j = k
    edges = [(j * size, SIDE - i * size, 0, -size) for i in range(side) for j in range(1, side) if grid[i][j] != grid[i][j - 1]]
    edges += [(j * size, SIDE - i * size, size, 0) for i in range(1, side) for j in range(side) if grid[i][j] != grid[i - 1][j]]
    path = "".join(f"M{x:.1f} {y:.1f}l{dx:.1f} {dy:.1f}" for x, y, dx, dy in edges)
    x0, y0, x1, y1 = box
    for (x, y), c in zip(points, label):
        u, v = (x - x0) / (x1 - x0) * SIDE, SIDE - (y - y0) / (y1 - y0) * SIDE
        if 0 <= u <= SIDE and 0 <= v <= SIDE:
            parts.append(f"<circle cx='{u:.1f}' cy='{v:.1f}' r='1.5' fill='{COLOURS[c % len(COLOURS)]}'/>")
    inner = f"<g transform='translate(6 20)'>{''.join(parts)}<path class='edge' d='{path}' fill='none' stroke-width='1.5'/></g>"
    title, shape = html.escape(name, quote=True), f"width='{SIDE + 12}' height='{H}' viewBox='0 0 {SIDE + 12} {H}'"
    return f"<svg class='lines' {shape} role='img' aria-label='decision boundary, {title}'><text x='6' y='14'>{title}</text>{inner}</svg>"
