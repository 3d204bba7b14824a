"""The experiments of the Lab: a button for each, with progress, plots, the three ways side by side, a table and its CSV."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import gradio as gr

from ddpm_app.toy import plots
from ddpm_app.toy.experiments import EVALUATIONS, EXPERIMENTS
from ddpm_app.toy.playground import Setup, clouds_value
from ddpm_app.toy.sweeps import DEFAULT_PAIRS, DEFAULT_T, ExperimentEvent, Scale
from ddpm_app.toy.tables import parse_numbers, parse_pairs, summarise, to_csv
from ddpm_app.ui.components.experiment import ExperimentOutput, progress
from ddpm_app.ui.components.point_clouds import PointClouds
from ddpm_app.ui.events import Throttle, idle, running, wire_runs

BUTTONS = {
    "steps": "Against T",
    "schedules": "Against the schedule",
    "solvers": "Solver microscope",
    "classes": "Three ways to a class",
    "classifier": "Training-free classifier",
    "likelihood": "Likelihood honesty",
}


def parse_field(parse: Callable[[str], list], text: object, what: str, most: int = 12) -> list:
    """The entries of a field, separated by commas. Raises ValueError."""
    try:
        entries = parse(str(text or ""))
    except ValueError as error:
        raise ValueError(f"{what}: {error}") from None
    if not 1 <= len(entries) <= most:
        raise ValueError(f"{what} has {len(entries)} entries; 1 to {most} are accepted")
    return entries


def whole_numbers(text: str) -> list[int]:
    return parse_numbers(text, int)


def one_time(text: object) -> int | None:
    """The t of a field; None if the field is empty. Raises ValueError."""
    return parse_field(whole_numbers, text, "t", most=1)[0] if str(text or "").strip() else None


def build(c: SimpleNamespace, setup_of: Callable[[dict], Setup]) -> None:
    """Lay out the experiments.

    c           inputs (the components that setup_of reads), seed, label
    setup_of    values of these components -> the data and its network
    """
    with gr.Accordion("Experiments", open=False, elem_id="lab-experiments"):
        buttons = {}
        with gr.Row(elem_classes="plain-row"):
            for name, text in BUTTONS.items():
                buttons[name] = gr.Button(text, elem_id=f"lab-{name}", min_width=150, size="md")
            halt = gr.Button("Stop", interactive=False, min_width=80, elem_id="lab-halt", size="md")
        about = "".join(f"<li><b>{BUTTONS[k]}</b>: {html.escape(text)}</li>" for k, (_, text) in EXPERIMENTS.items())
        with gr.Accordion("What they do, and their settings", open=False):
            gr.HTML(f"<ul class='note'>{about}</ul>", apply_default_css=False)
            with gr.Row():
                seeds = gr.Slider(
                    1, 5, value=3, step=1, label="Seeds", info="Networks for each setting of a sweep; the first is the seed above."
                )
                lengths = gr.Textbox(
                    ", ".join(map(str, DEFAULT_T)),
                    label="Chain lengths",
                    info="T, 2 or more, each trained for.",
                    elem_id="lab-T",
                )
            with gr.Row():
                betas = gr.Textbox(
                    ", ".join(f"{a:g}:{b:g}" for a, b in DEFAULT_PAIRS),
                    label="Linear schedules",
                    info="start:end of beta, gradual to wide.",
                )
                t = gr.Textbox(
                    "", label="t of the training-free classifier", info="Empty: averaged over the whole schedule.", elem_id="lab-t"
                )  # a Number shows 0
        bar = ExperimentOutput(elem_classes="note", elem_id="lab-progress")
        curve = ExperimentOutput(elem_id="lab-curve")
        ways = PointClouds(elem_id="lab-ways")
        rows_view = ExperimentOutput(elem_id="lab-rows")

    def events_of(name: str, values: dict, setup: Setup) -> Iterator[ExperimentEvent]:
        run, data, chosen = EXPERIMENTS[name][0], setup.data, int(values[c.seed] or 0) % 2**31
        trained = setup.denoiser is not None
        has_classes = trained and setup.denoiser.network.config.num_classes == len(data.classes)
        fair = data.truth is not None  # without a density, all points are training data: no test points are left
        if name in ("steps", "schedules"):
            which = [chosen + k for k in range(int(values[seeds] or 1))]
            if name == "steps":
                return run(data, parse_field(whole_numbers, values[lengths], "T"), which, Scale(seed=chosen))
            return run(data, parse_field(parse_pairs, values[betas], "Betas"), seeds=which, scale=Scale(seed=chosen))
        if name == "solvers":
            return run(setup.choose("learned" if trained else "exact"), setup.schedule, data, EVALUATIONS, points=500, seed=chosen)
        if name == "classes":
            number = max(-1 if values[c.label] is None else int(values[c.label]), 0)
            return run(data, setup.denoiser if has_classes and fair else None, label=number, seed=chosen)
        if name == "classifier":
            return run(data, setup.denoiser if has_classes and fair else None, t=one_time(values[t]), seed=chosen)
        return run(data, setup.choose("learned") if trained and fair else None, seed=chosen)

    def runner(name: str):
        def run_experiment(values: dict):
            setup, throttle, rows, pictures = setup_of(values), Throttle(4), [], []
            events = events_of(name, values, setup)
            busy = {b: gr.Button(interactive=False) for b in buttons.values()}
            yield {bar: progress(0, "starting"), curve: "", rows_view: "", ways: None, **busy, **running(buttons[name], halt)}
            for event in events:
                rows += event.rows
                pictures += [event.picture] if event.picture else []
                if event.rows or event.picture or throttle.due():
                    message = {bar: progress(event.fraction, f"{BUTTONS[name]}: {event.text}")}
                    if event.rows:
                        message[rows_view] = plots.table(summarise(rows, name), to_csv(rows), f"{name}-{setup.data.name}")
                    if event.rows or (event.picture and "grid" in event.picture):
                        drawn = [plots.regions(**p) for p in pictures if "grid" in p]
                        message[curve] = f"<div class='panels'>{''.join(plots.plot(rows, name) + drawn)}</div>"
                    if event.picture and "method" in event.picture:
                        message[ways] = clouds_value(setup.data, pictures)
                    yield message
            yield {bar: progress(1, f"{BUTTONS[name]}: done"), **at_rest()}

        return run_experiment

    def at_rest() -> dict:
        return {**{b: gr.Button(interactive=True) for b in buttons.values()}, **idle(buttons["steps"], halt)}

    def stopped() -> dict:
        return {bar: "Stopped.", **at_rest()}

    def failed() -> dict:
        return {bar: "", **at_rest()}

    inputs = c.inputs | {c.seed, c.label, seeds, lengths, betas, t}
    starts = [(button, runner(name), inputs) for name, button in buttons.items()]
    wire_runs(starts, halt, [bar, curve, ways, rows_view, *buttons.values(), halt], stopped, failed)
