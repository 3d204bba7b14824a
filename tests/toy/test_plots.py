"""Plots and tables of experiments: positions of the values, escaping, well-formed files."""

import base64
import re
import xml.etree.ElementTree as ET

import pytest

from ddpm_app.toy import plots
from ddpm_app.toy.experiments import EXPERIMENTS
from ddpm_app.toy.tables import summarise


def drawn(svg, tag):
    return [e for e in ET.fromstring(svg).iter() if e.tag.split("}")[-1] == tag]


def scale(svg):
    """y of the picture -> value, from two labelled grid lines."""
    return [(float(e.get("y")) - 4, float(e.text)) for e in drawn(svg, "text") if e.get("text-anchor") == "end" and e.get("y") != "14"]


def test_every_experiment_has_panels():
    assert plots.PANELS.keys() == EXPERIMENTS.keys()


def test_a_sweep_is_plotted_as_mean_and_standard_deviation_with_the_true_value():
    rows = [{"T": T, "seed": s, "nll ode": v + s, "nll true": 0.5} for T, v in ((10, 4.0), (100, 2.0), (1000, 1.0)) for s in (0, 2)]
    (svg,) = plots.plot(rows, "steps")  # nothing is there yet for the other panels
    (y0, v0), (y1, v1) = scale(svg)[0], scale(svg)[-1]

    def value(y):
        return v0 + (float(y) - y0) * (v1 - v0) / (y1 - y0)

    dots = drawn(svg, "circle")
    assert [value(d.get("cy")) for d in dots] == pytest.approx([5.0, 3.0, 2.0], abs=0.02)
    x = [float(d.get("cx")) for d in dots]
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.11)  # the axis of T is logarithmic
    bars = [e for e in drawn(svg, "line") if e.get("x1") == e.get("x2")]
    spread = [abs(value(b.get("y1")) - value(b.get("y2"))) / 2 for b in bars]
    assert spread == pytest.approx([2**0.5] * 3, abs=0.03)  # of two values, s and s + 2
    (reference,) = [e for e in drawn(svg, "line") if e.get("class") == "reference"]
    assert value(reference.get("y1")) == pytest.approx(0.5, abs=0.02)


def test_errors_of_solvers_are_plotted_on_logarithmic_axes_with_their_order():
    rows = [{"evaluations": n, "error": 8.0 / n**2, "sampler": "heun", "emd": 0.1, "fitted order": 2.0} for n in (2, 4, 8, 16)]
    rows += [{"evaluations": n, "error": None, "sampler": "ddpm", "emd": 0.2, "fitted order": None} for n in (2, 4)]
    error, emd = plots.plot(rows, "solvers")
    (line,) = drawn(error, "polyline")
    points = [tuple(map(float, p.split(","))) for p in line.get("points").split()]
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in zip(points, points[1:])]
    assert slopes == pytest.approx([slopes[0]] * 3, rel=0.01) and "heun, 2.0" in error and "ddpm" not in error
    colour = re.search(r"fill:(#\w+)'>heun", error)[1]
    assert f"fill:{colour}'>heun" in emd and f"fill:{colour}'>ddpm" not in emd  # one colour a sampler in both


@pytest.mark.parametrize("values", [[1.0, 1.0], [-3.0, -3.0], [0.0, 0.0], [1e-9, 1e9]])
def test_any_range_of_values_can_be_plotted(values):
    rows = [{"T": T, "nll ode": v, "nll bound": v, "emd": abs(v)} for T, v in zip((10, 100), values)]
    for svg in plots.plot(rows, "steps") + plots.plot(rows[:1], "steps"):
        assert "nan" not in svg and "inf" not in svg and drawn(svg, "circle" if svg.count("circle") else "line")


def test_the_decision_boundary_lies_where_the_class_changes():
    side = 10
    svg = plots.regions("half <plane>", [[int(j >= 7) for j in range(side)]] * side, (-1, -1, 1, 1), [(0.5, 0.5), (9, 9)], [1, 0])
    (edge,) = drawn(svg, "path")
    places = [float(x) for x in re.findall(r"M([\d.]+)", edge.get("d"))]
    assert places == pytest.approx([0.7 * plots.SIDE] * side)
    rects, dots = drawn(svg, "rect"), drawn(svg, "circle")
    assert len(rects) == 2 * side and sum(float(r.get("width")) for r in rects) == pytest.approx(side * plots.SIDE, rel=1e-3)
    assert len(dots) == 1 and float(dots[0].get("cx")) == 0.75 * plots.SIDE and float(dots[0].get("cy")) == 0.25 * plots.SIDE
    assert dots[0].get("fill") == rects[1].get("fill")  # class 1's own colour
    assert "half &lt;plane&gt;" in svg


def test_names_from_files_are_escaped_and_a_file_is_well_formed():
    rows = [{"quantity": "<script>alert(1)</script>", "of": "a&b'\"", "nats": 1.0, "error": 0.1}]
    pictures = plots.plot(rows, "likelihood") + [plots.regions("x", [[0, 1]] * 2, (0, 0, 1, 1), [], [])]
    document = ET.fromstring(plots.to_file(pictures))
    assert not [e for e in document.iter() if "script" in e.tag] and document.tag.endswith("svg")
    text = plots.table(rows, "a,b\n1,2\n", 'x"<y')
    assert "<script>" not in text and 'x"' not in text
    assert base64.b64decode(re.search(r"base64,([^']+)'", text)[1]) == b"a,b\n1,2\n"


def test_the_table_of_a_sweep_has_the_mean_over_the_seeds():
    rows = [
        {"T": T, "seed": s, "nll ode": T + s, "nll bound": 9.0, "emd": None, "nll true": 1.0, "emd data to data": 0.1}
        for T in (2, 5)
        for s in (0, 1)
    ]
    lines = summarise(rows, "steps")
    assert [(r["T"], r["nll ode"], r["runs"], r["emd data to data"]) for r in lines] == [(2, 2.5, 2, 0.1), (5, 5.5, 2, 0.1)]
    assert lines[0]["nll ode spread"] == pytest.approx(0.5**0.5) and lines[0]["emd"] is None
    assert summarise(rows, "solvers") == rows and summarise([], "steps") == []
