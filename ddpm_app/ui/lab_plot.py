"""Rows of an experiment as a table with its CSV, and as a line plot in SVG that follows the page's colours."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence

COLOURS = ("#6366f1", "#d97706", "#0d9488", "#db2777", "#65a30d", "#0284c7", "#9333ea", "#dc2626")
W, H, LEFT, BOTTOM, TOP, RIGHT = 640, 300, 62, 38, 12, 150
# experiment -> (x, y, one line each, logarithmic axes)
AXES = {
    "steps": ("T", "emd", None, True),
    "schedules": ("schedule", "emd", None, False),
    "solvers": ("evaluations", "error", "sampler", True),
    "classes": ("scale", "emd", "way", False),
}


def table(rows: Sequence[dict], csv_text: str, name: str) -> str:
    """An HTML table, and a link that saves the rows as CSV."""
    if not rows:
        return ""
    names = list(dict.fromkeys(k for row in rows for k in row))

    def cell(v) -> str:
        return "" if v is None else f"{v:.4g}" if isinstance(v, float) else html.escape(str(v))

    head = "".join(f"<th scope='col'>{html.escape(n)}</th>" for n in names)
    body = "".join("<tr>" + "".join(f"<td>{cell(row.get(n))}</td>" for n in names) + "</tr>" for row in rows)
    data = base64.b64encode(csv_text.encode()).decode()
    link = f"<a class='csv' download='{html.escape(name, quote=True)}.csv' href='data:text/csv;base64,{data}'>Download CSV</a>"
    return f"<div class='rows' tabindex='0'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{link}"


def plot(rows: Sequence[dict], experiment: str) -> str:
    """An SVG, empty where the experiment has no curve or fewer than two points."""
    if experiment not in AXES:
        return ""
    x_name, y_name, group, logarithmic = AXES[experiment]
    rows = [r for r in rows if r.get(y_name) is not None and (not logarithmic or r[y_name] > 0)]
    places = list(dict.fromkeys(r[x_name] for r in rows))
    if len(places) < 2:
        return ""
    words = isinstance(places[0], str)
    f = math.log10 if logarithmic else float

    def x_of(r) -> float:
        return float(places.index(r[x_name])) if words else f(r[x_name])

    lines: dict[str, dict[float, list[float]]] = {}
    for r in rows:  # several seeds at a place: their mean
        lines.setdefault(str(r[group]) if group else y_name, {}).setdefault(x_of(r), []).append(r[y_name])
    values = [sum(v) / len(v) for line in lines.values() for v in line.values()]
    x0, x1 = min(map(x_of, rows)), max(map(x_of, rows))
    y0, y1 = (f(min(values)), f(max(values))) if logarithmic else (0.0, max(values))
    x1, y1 = (x1 if x1 > x0 else x0 + 1), (y1 if y1 > y0 else y0 + 1)

    def px(x: float) -> float:
        return LEFT + (x - x0) / (x1 - x0) * (W - LEFT - RIGHT)

    def py(y: float) -> float:
        return H - BOTTOM - (y - y0) / (y1 - y0) * (H - BOTTOM - TOP)

    parts = []
    for k in range(5):
        y = y0 + (y1 - y0) * k / 4
        label = f"{10**y if logarithmic else y:.2g}"
        parts.append(f"<line x1='{LEFT}' x2='{W - RIGHT}' y1='{py(y):.1f}' y2='{py(y):.1f}'/>")
        parts.append(f"<text x='{LEFT - 6}' y='{py(y) + 4:.1f}' text-anchor='end'>{label}</text>")
    for place in places if len(places) <= 12 else places[:: len(places) // 8]:
        at = px(float(places.index(place)) if words else f(place))
        label = html.escape(str(place).replace("linear ", "")) if words else f"{place:g}"
        parts.append(f"<text x='{at:.1f}' y='{H - BOTTOM + 16}' text-anchor='middle'>{label}</text>")
    parts.append(f"<text x='{(LEFT + W - RIGHT) / 2}' y='{H - 4}' text-anchor='middle'>{html.escape(x_name)}</text>")
    parts.append(f"<text x='12' y='{H / 2}' text-anchor='middle' transform='rotate(-90 12 {H / 2})'>{html.escape(y_name)}</text>")
    for k, (name, line) in enumerate(lines.items()):
        colour = COLOURS[k % len(COLOURS)]
        points = [(px(x), py(f(sum(v) / len(v)))) for x, v in sorted(line.items())]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2'/>")
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{colour}'/>" for x, y in points]
        parts.append(f"<text x='{W - RIGHT + 10}' y='{TOP + 12 + 16 * k}' style='fill:{colour}'>{html.escape(name)}</text>")
    label = html.escape(f"{y_name} against {x_name}", quote=True)
    return f"<svg class='lines' viewBox='0 0 {W} {H}' role='img' aria-label='{label}'>{''.join(parts)}</svg>"
