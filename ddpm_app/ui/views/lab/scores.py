"""Evaluate: measure a model with chosen metrics and a sampler, list the numbers in a table, sweep a setting for a trade-off curve."""

from __future__ import annotations

import html
import secrets
from contextlib import closing
from dataclasses import asdict

import gradio as gr
import numpy as np

from ddpm_app.checkpoints.measurements import Measurement, store, stored_measurements
from ddpm_app.classifiers.clip import SUGGESTED
from ddpm_app.evaluation.evaluate import evaluate, neighbour_pairs
from ddpm_app.evaluation.features import KINDS
from ddpm_app.evaluation.plan import METRICS, Plan
from ddpm_app.evaluation.protocol import Refusal
from ddpm_app.evaluation.tradeoff import Point, Sweep, sweep
from ddpm_app.files import plain
from ddpm_app.flags import whole
from ddpm_app.images import render
from ddpm_app.images.sets import Progress, TimeLeft
from ddpm_app.studio import exports
from ddpm_app.studio.request import Request
from ddpm_app.studio.studio import Studio
from ddpm_app.ui.components.base import b64
from ddpm_app.ui.components.results import Results
from ddpm_app.ui.events import INSTANT, Throttle, idle, run_buttons, wire_runs
from ddpm_app.ui.forms.sampling import bounds, sampler_choices

CHOICES = [
    ("Frechet distance", "fid"), ("Kernel distance", "kid"), ("Inception score", "is"), ("Precision, recall", "prc"),
    ("Classifier's reading", "classifier"), ("CLIP", "clip"), ("Nearest neighbours", "neighbours"),
    ("Bits/dim, bound", "bpd-bound"), ("Bits/dim, flow", "bpd-flow"),
]  # fmt: skip
MOST_N = 50_000
PAIRS, SHOWN = 10, 36  # pairs in the strip of nearest neighbours; samples shown for a point of the curve


def stored_value(studio: Studio, name: str | None) -> dict:
    """The table's value before a measurement: the stored numbers of a model."""
    checkpoint = studio.checkpoints().get(name or "")
    try:
        return {"run": None, "model": name or "", "stored": stored_measurements(checkpoint) if checkpoint else [], "trouble": ""}
    except ValueError as error:
        return {"run": None, "model": name or "", "stored": [], "trouble": str(error)}


def png_strip(pairs) -> dict:
    """One PNG of samples (top row) and their nearest training images (bottom row), with their distances."""
    rows = np.stack([p[k].numpy() for k in (0, 1) for p in pairs])
    picture = exports.frame_grid(rows, len(pairs))
    return {
        "png": b64(render.encode(picture, "png")),
        "distances": [round(p[2], 4) for p in pairs],
        "columns": len(pairs),
        "width": picture.width,
    }


class Form:
    """The controls, and the plan that they describe."""

    def __init__(self):
        with gr.Group(elem_classes="tight"):
            self.metrics = gr.CheckboxGroup(CHOICES, value=["fid", "prc", "classifier"], label="Metrics", elem_id="evaluate-metrics")
            self.features = gr.CheckboxGroup(
                [("our classifier", "classifier"), ("CLIP", "clip"), ("Inception (a download)", "inception")],
                value=["classifier"], label="Distances in the features of", elem_id="evaluate-features",
            )  # fmt: skip
            self.n = gr.Slider(2, MOST_N, value=1000, step=1, label="Samples", elem_id="evaluate-n")
            self.against = gr.Dropdown(
                ["train", "test"], value="train", label="Against", allow_custom_value=True, elem_id="evaluate-against",
                info="The model's own data; or an .npz or folder on this machine. Bits/dim: test images, or the file.",
            )  # fmt: skip
            self.sampler = gr.Dropdown(sampler_choices(tuned=True), value=Request.sampler, label="Sampler", elem_id="evaluate-sampler")
            self.evaluations = gr.Slider(
                *bounds("evaluations"), value=Request.evaluations, step=1, label="Evaluations", elem_id="evaluate-evaluations"
            )
            self.guidance = gr.Slider(*bounds("guidance"), value=Request.guidance, step=0.1, label="Guidance scale s", info="1 is off.")
        with gr.Accordion("Networks, seeds, bits, keeping", open=False):
            self.clip = gr.Dropdown(
                list(SUGGESTED), value="shipped", allow_custom_value=True, label="CLIP", elem_id="evaluate-clip",
                info="shipped knows CIFAR-10 only. Others are downloaded once; type any MODEL:PRETRAINED of open_clip.",
            )  # fmt: skip
            self.inception = gr.Textbox(
                "", label="Inception's weights", placeholder="downloaded by torch-fidelity", max_lines=1, max_length=300,
                info="Or a file on this machine.", elem_id="evaluate-inception",
            )  # fmt: skip
            self.seed = gr.Number(0, label="Seed", precision=0, minimum=0, maximum=2**31 - 1)
            self.seeds = gr.Slider(1, 5, value=1, step=1, label="Independent sets", info="Three give a spread.")
            self.bits_n = gr.Slider(2, 1000, value=64, step=1, label="Test images for bits/dim")
            self.keep = gr.Checkbox(True, label="Keep the numbers in the model's metrics.json")

    @property
    def fields(self) -> set:
        return set(vars(self).values())

    def plan(self, values: dict, model: str) -> Plan:
        n = whole(values[self.n], "samples")
        if n > MOST_N:
            raise ValueError(f"samples is {n}; at most {MOST_N:,} are measured here")
        sampler = str(values[self.sampler])
        request = Request(
            model,
            "all",
            n,
            values[self.guidance],
            sampler,
            whole(values[self.evaluations], "evaluations"),
            seed=whole(values[self.seed], "the seed"),
        )
        against = str(values[self.against] or "train").strip()
        metrics, kinds = (tuple(str(v) for v in values[c] or ()) for c in (self.metrics, self.features))
        return Plan(
            request,
            tuple(m for m in METRICS if m in metrics) or metrics,
            tuple(k for k in KINDS if k in kinds) or kinds,
            against=against,
            bits_against="test" if against == "train" else against,
            seeds=whole(values[self.seeds], "sets"),
            clip=str(values[self.clip] or "shipped").strip(),
            inception=str(values[self.inception] or "").strip(),
            bits_n=whole(values[self.bits_n], "test images"),
        )


def build(studio: Studio, model: gr.Dropdown) -> None:
    gr.HTML("<p class='purpose'>Measure a model; every number says how it was taken.</p>", apply_default_css=False)
    with gr.Row(elem_classes="main-row"):
        with gr.Column(scale=1, min_width=300, elem_classes="controls"):
            start, stop = run_buttons("Measure", "evaluate")
            form = Form()
            with gr.Group(elem_classes="tight"):
                axis = gr.Dropdown(
                    [("guidance scale", "guidance"), ("evaluations", "evaluations"), ("sampler", "sampler")], value="guidance",
                    label="Trade-off curve over", elem_id="evaluate-axis",
                    info="Distance against agreement, one point a setting, each of so many samples.",
                )  # fmt: skip
                curve = gr.Button("Draw the curve", elem_id="evaluate-curve")
        with gr.Column(scale=3, min_width=320):
            view = Results(stored_value(studio, model.value), elem_id="evaluate-view")

    def at_rest() -> dict:
        return {**idle(start, stop), curve: gr.Button(interactive=True)}

    def message(p: Progress, left: TimeLeft) -> dict:
        seconds = left.of(p)
        return {"what": p.what, "done": p.done, "total": p.total, "left": None if seconds is None else round(seconds)}

    def chosen(values: dict) -> tuple[str, Plan]:
        name = str(values[model] or "")
        studio.checkpoint(name)  # raises for an unknown model
        return name, form.plan(values, name)

    def measure(values: dict):
        name, plan = chosen(values)
        run, throttle, left, kept = secrets.token_urlsafe(8), Throttle(4), TimeLeft(), 0
        yield {view: {"run": run, "model": name, "begin": "measure", "what": "starting", "done": 0, "total": 1}}
        fresh: list[dict] = []
        with closing(evaluate(studio, plan)) as events:
            for event in events:
                if isinstance(event, Progress):
                    if throttle.due() or event.done == event.total:
                        yield {view: {"run": run, "model": name, **message(event, left)}}
                    continue
                if isinstance(event, Refusal):
                    fresh.append({"refused": event.metric, "says": event.reason})
                else:
                    row = plain(asdict(event))
                    if event.name.startswith("closer-than-real"):
                        row["strip"] = png_strip(neighbour_pairs(studio, plan, event, PAIRS))
                    fresh.append(row)
                    kept += keep(values, name, event)
                yield {view: {"run": run, "model": name, "rows": list(fresh)}}
        where = f"; {kept} kept in the model's metrics.json" if kept else ""
        count = sum("name" in row for row in fresh)
        yield {view: {"run": run, "model": name, "rows": fresh, "over": f"{count} number{'s' * (count != 1)} measured{where}"}, **at_rest()}

    def keep(values: dict, name: str, event: Measurement) -> int:
        if not values[form.keep]:
            return 0
        try:
            store(studio.checkpoint(name), event)
            return 1
        except (OSError, ValueError) as error:
            gr.Warning(html.escape(f"The number is shown, but not kept: {error}"))
            return 0

    def draw(values: dict):
        name, plan = chosen(values)
        along = Sweep(str(values[axis]), (), (plan.features or ("classifier",))[0])
        run, throttle, left, points = secrets.token_urlsafe(8), Throttle(4), TimeLeft(), []
        yield {view: {"run": run, "model": name, "begin": "curve", "axis": along.axis, "what": "starting", "done": 0, "total": 1}}
        with closing(sweep(studio, plan, along)) as events:
            for event in events:
                if isinstance(event, Point):
                    points.append(event)
                    yield {view: {"run": run, "model": name, "point": point_value(event), "index": len(points) - 1}}
                elif throttle.due():
                    yield {view: {"run": run, "model": name, **message(event, left)}}
        yield {view: {"run": run, "model": name, "over": f"{len(points)} points over {along.axis}"}, **at_rest()}

    def failed() -> dict:
        return {view: {"failed": True}, **at_rest()}

    inputs = {model, axis, *form.fields}
    wire_runs([(start, measure, inputs), (curve, draw, inputs)], stop, [view, start, stop, curve], at_rest, failed, "evaluate-view")
    model.change(lambda name: stored_value(studio, name), model, view, **INSTANT)


def point_value(p: Point) -> dict:
    """A point of the curve for the page: numbers, a grid of its first samples, settings and protocol."""
    shown = min(SHOWN, p.images.n)
    grid = exports.frame_grid(p.images.part(0, shown).numpy(), exports.grid_columns(shown))
    settings = {"sampler": p.request.sampler, "evaluations": p.request.true_evaluations, "guidance": p.request.guidance, "n": p.request.n}
    numbers = {"distance": p.distance, "agreement": p.agreement, "confidence": p.confidence}
    return {
        "value": p.value, "name": p.name, **numbers, "says": p.reason, "grid": b64(render.encode(grid, "png")), "shown": shown,
        "settings": settings, "protocol": p.protocol,
    }  # fmt: skip
