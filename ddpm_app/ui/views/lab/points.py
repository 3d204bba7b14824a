"""Lab: diffusion in the plane, where the exact density is known. Layout and wiring; ddpm_app.toy.playground computes what it shows."""

from __future__ import annotations

import html
import inspect
import secrets
import time
from types import SimpleNamespace

import gradio as gr

from ddpm_app.diffusion.samplers import GENERAL_SAMPLERS
from ddpm_app.diffusion.schedules import SCHEDULES
from ddpm_app.flags import settings_of
from ddpm_app.toy import playground as use_cases
from ddpm_app.toy.shapes import SHAPES
from ddpm_app.toy.training import ToyTrainConfig
from ddpm_app.ui.components.base import b64
from ddpm_app.ui.components.plane import Plane
from ddpm_app.ui.events import HIDDEN, NewestRuns, Throttle, guarded, idle, running, wire_runs
from ddpm_app.ui.views.lab import experiments

LAB = use_cases.Lab()
DENOISERS = [("learned network", "learned"), ("exact: the true density", "exact"), ("exact: the data's own points (1,000)", "points")]
FIELDS = [("none", "none"), ("learned", "learned"), ("exact: the true density", "exact"), ("exact: the data's own points", "points")]
FIELDS += [("difference of learned and exact", "difference")]
LOCK, UNLOCK = {"run": None, "locked": True}, {"run": None}  # the plane keeps its picture; locked: no drawing during a run


def class_choices(classes: tuple[str, ...]) -> list[tuple[str, int]]:
    return [("any", -1), *((name, k) for k, name in enumerate(classes))]


def plane_value(setup: use_cases.Setup, hint: str, **parts) -> dict:
    return {"run": secrets.token_urlsafe(6), "data": use_cases.points_value(setup), "hint": hint, **parts}


def move_value(setup: use_cases.Setup, request: use_cases.PlaneRequest, only_last: bool = False) -> dict:
    move = use_cases.trajectories(setup, request)
    if only_last:
        move |= {"sigma": move["sigma"][-1:], "frames": move["frames"][-4 * request.n :]}
    return {**move, "frames": b64(move["frames"])}


def build(tab: gr.Tab) -> None:
    gr.HTML("<p class='purpose'>Watch points find their density, beside the exact answer.</p>", apply_default_css=False)
    kept_name = gr.State(None)  # name under which LAB keeps an uploaded, drawn or trained setup
    busy = gr.State(False)  # whether sampling or training runs
    with gr.Row(elem_classes="main-row"):
        with gr.Column(scale=1, min_width=300, elem_classes="controls"):
            with gr.Row(elem_classes="run-row"):
                start = gr.Button("Run", variant="primary", elem_id="lab-start", min_width=90)
                train = gr.Button("Train", elem_id="lab-train", min_width=80)
                stop = gr.Button("Stop", interactive=False, elem_id="lab-stop", min_width=70)
            with gr.Group(elem_classes="tight"):
                data = gr.Dropdown(list(SHAPES), value="moons", label="Data", elem_id="lab-data")
                noise = gr.Slider(0, 0.5, value=0, step=0.01, label="Noise", info="Width of the shape; 0 keeps its own.")
                components = gr.Slider(1, 12, value=3, step=1, label="Components", visible=False, elem_id="lab-components")
                spread = gr.Slider(0.2, 4, value=1, step=0.1, label="Spread", visible=False, info="How far apart they lie.")
                layout = gr.Slider(0, 50, value=0, step=1, label="Layout", visible=False, info="Seed of where they lie.")
                upload = gr.UploadButton("Upload CSV or NPY", file_types=[".csv", ".npy"], elem_id="lab-upload")
            with gr.Group(elem_classes="tight"):
                which = gr.Dropdown(DENOISERS, value=use_cases.PlaneRequest.which, label="Denoiser", elem_id="lab-which")
                label = gr.Dropdown(class_choices(SHAPES["moons"]()[1]), value=-1, label="Class", elem_id="lab-class")
                about = "1 is off. s = 1 + w in (1 + w) cond - w uncond."
                scale = gr.Slider(0, 10, value=use_cases.PlaneRequest.scale, step=0.5, label="Guidance scale s", info=about)
                sampler = gr.Dropdown(list(GENERAL_SAMPLERS), value=use_cases.PlaneRequest.sampler, label="Sampler")
                evaluations = gr.Slider(1, 200, value=use_cases.PlaneRequest.evaluations, step=1, label="Evaluations")
            with gr.Accordion("Particles, seed and training", open=False):
                points = gr.Slider(100, 4000, value=use_cases.PlaneRequest.n, step=100, label="Particles")
                seed = gr.Number(
                    ToyTrainConfig.seed, label="Seed", precision=0, minimum=0, maximum=settings_of(ToyTrainConfig)["seed"].high
                )
                steps = gr.Slider(100, 20_000, value=ToyTrainConfig.steps, step=100, label="Steps")
                width = gr.Slider(16, 512, value=ToyTrainConfig.width, step=16, label="Width")
                depth = gr.Slider(1, 6, value=ToyTrainConfig.depth, step=1, label="Hidden layers")
                with_classes = gr.Checkbox(True, label="Learn the classes", info="An embedding of the class, and a null class for any.")
                schedule = gr.Dropdown(list(SCHEDULES), value=ToyTrainConfig.schedule, label="Schedule")
                T = gr.Number(ToyTrainConfig.T, label="T", precision=0, info="Steps of the schedule, 2 or more.")
                betas = gr.Textbox("", label="Betas", placeholder="0.0001, 0.02", info="First and last, for linear and quadratic.")
        with gr.Column(scale=3, min_width=320):
            view = Plane(elem_id="lab-plane")
            note = gr.HTML("", elem_classes="note", elem_id="lab-note", apply_default_css=False)
            with gr.Row(elem_classes="plain-row"):
                kind = gr.Dropdown(FIELDS, value="none", label="Vector field", elem_id="lab-field", min_width=150)
                level = gr.Slider(-2, 2, value=-0.5, step=0.05, label="at log10 of sigma", elem_id="lab-level", min_width=180)
                contour = gr.Button("Contours of the density", elem_id="lab-contours", min_width=150)
    mixture = {"components": components, "spread": spread, "layout": layout}
    c = SimpleNamespace(inputs={kept_name, data, noise, *mixture.values()}, seed=seed, label=label)
    plane_inputs = c.inputs | {busy, which, label, scale, sampler, evaluations, points, seed, kind, level}
    training_inputs = plane_inputs | {steps, width, depth, schedule, T, betas, with_classes}

    def setup_of(values: dict) -> use_cases.Setup:
        return LAB.get(values[kept_name]) or named(values)

    def named(values: dict) -> use_cases.Setup:
        options = {"components": int(values[components]), "spread": float(values[spread]), "layout": int(values[layout])}
        return LAB.setup(str(values[data]), float(values[noise] or 0) or None, **(options if values[data] == "mixture" else {}))

    def request_of(values: dict, **changes) -> use_cases.PlaneRequest:
        number = -1 if values[label] is None else int(values[label])
        settings = {
            "which": str(values[which]),
            "sampler": str(values[sampler]),
            "evaluations": int(values[evaluations]),
            "n": int(values[points]),
            "label": None if number < 0 else number,
            "scale": float(values[scale]),
            "seed": int(values[seed] or 0) % 2**31,
        }
        return use_cases.PlaneRequest(**{**settings, **changes})

    def parts_of(values: dict, setup: use_cases.Setup, request: use_cases.PlaneRequest) -> dict:
        unknown = setup.denoiser is None and values[kind] in ("learned", "difference")
        if values[kind] == "none" or setup.data.dim != 2 or unknown:
            return {}
        return {"field": use_cases.field(setup, str(values[kind]), 10 ** float(values[level]), request.label)}

    closed = (train, data, noise, *mixture.values(), upload)

    def at_work() -> dict:
        """Only Stop is active and the data cannot be changed, so that no late message replaces a newer choice."""
        return {busy: True, view: LOCK, **{k: k.__class__(interactive=False) for k in closed}, **running(start, stop)}

    def at_rest() -> dict:
        return {busy: False, **{k: k.__class__(interactive=True) for k in closed}, **idle(start, stop)}

    def sample(values: dict) -> dict:
        setup = setup_of(values)
        use = "exact" if values[which] == "learned" and setup.denoiser is None else str(values[which])
        use = "points" if use == "exact" and setup.data.truth is None else use
        request = request_of(values, which=use)
        hint = f"{setup.data.name}: {dict((v, k) for k, v in DENOISERS)[request.which]}, {request.sampler}"
        move = move_value(setup, request)
        text = f"{request.n} particles, {move['evaluations']} evaluations each."
        if values[which] == "learned" != use:
            text = "No network is trained on this data yet: these follow the exact denoiser. " + text
        return {view: plane_value(setup, hint, move=move, **parts_of(values, setup, request)), note: text}

    def go(values: dict):
        yield {note: "Sampling", **at_work()}
        yield {**sample(values), **at_rest()}

    newest = NewestRuns()

    def opened(values: dict, visitor: gr.Request):
        if values[busy] or newest.has_run(visitor):  # a trained or drawn setup stays
            return
        run = newest.begin(visitor)
        yield {note: "Sampling"}
        shown = sample(values)  # meanwhile the visitor may have chosen other data
        yield shown if newest.end(visitor, run) else {view: gr.skip(), note: gr.skip()}

    def learn(values: dict):
        setup, throttle = setup_of(values), Throttle(4)
        config = ToyTrainConfig(
            schedule=str(values[schedule]),
            T=int(values[T] or 0),
            params=parse_betas(values[betas], str(values[schedule])),
            steps=int(values[steps]),
            width=int(values[width]),
            depth=int(values[depth]),
            label_dropout=ToyTrainConfig.label_dropout if values[with_classes] else 1.0,
            seed=int(values[seed] or 0) % 2**31,
        )
        shown_class = {} if values[with_classes] else {"label": None}
        request_of(values, **shown_class)
        began = time.monotonic()
        events, trained = LAB.train(setup, config), setup  # raises for wrong settings before the page changes
        yield {note: "Training", **at_work()}
        for event, trained in events:
            text = f"Step {event.step} of {event.steps}, loss {event.loss[0]:.3f}, {time.monotonic() - began:.1f} s"
            if throttle.due() and event.step < event.steps:
                quick = {"which": "learned", "evaluations": 12, "n": 1000, "sampler": "dpmpp-2m", **shown_class}
                live = move_value(trained, request_of(values, **quick), only_last=True)
                yield {view: plane_value(trained, "learning", move=live, locked=True), note: text}
        request = request_of(values, which="learned", **shown_class)
        shown = plane_value(trained, f"{setup.data.name}: the network just trained", move=move_value(trained, request))
        yield {kept_name: LAB.keep(trained), view: shown, note: text, **at_rest()}

    def show_field(values: dict):
        setup = setup_of(values)
        shown = parts_of(values, setup, request_of(values))
        text = f"Field at sigma {shown['field']['sigma']:.3g}" if shown else ""
        if not shown and values[kind] != "none":
            text = "That field needs a trained network and points of 2 numbers."
        elif shown and shown["field"]["kind"] == "heat":
            text += f"; the two differ by at most {shown['field']['top']:.3g} in the data's units"
        return {view: plane_value(setup, setup.data.name, keep=True, locked=bool(values[busy]), **shown), note: text}

    def redrawn(values: dict):
        """Draw the field that was chosen during a run: the run's last picture has none."""
        return {view: show_field(values)[view] if values[kind] != "none" else gr.skip()}

    def show_contours(values: dict):
        setup = setup_of(values)
        request = request_of(values)
        density = use_cases.density(setup, request.which, request.label)
        more = parts_of(values, setup, request)
        shown = plane_value(setup, setup.data.name, keep=True, locked=bool(values[busy]), density=density, **more)
        return {view: shown, note: "Contours 0.5, 1.5, 3, 5 and 8 nats below the peak of the density."}

    def fresh(values: dict, visitor: gr.Request):
        check_idle(values[busy])
        newest.end(visitor)
        setup = named(values)
        advice = "" if setup.denoiser else " Press Train to fit a network, or Run to follow the exact denoiser."
        shown = plane_value(setup, setup.data.name)
        sliders = {k: k.__class__(visible=values[data] == "mixture") for k in mixture.values()}
        return {kept_name: None, view: shown, note: f"{len(setup.data)} points.{advice}", label: classes_of(setup), **sliders}

    def check_idle(is_busy: object) -> None:
        if is_busy:
            raise ValueError("a run uses these data; press Stop, then choose others")

    def classes_of(setup: use_cases.Setup) -> gr.Dropdown:
        return gr.Dropdown(class_choices(setup.data.classes), value=-1)

    def take(setup: use_cases.Setup):
        notes = " ".join(n[0].upper() + n[1:] + "." for n in setup.data.notes)
        text = f"{len(setup.data)} points of {setup.data.dim} number{'s' * (setup.data.dim > 1)}. {notes} Press Train to fit a network."
        return LAB.keep(setup), plane_value(setup, setup.data.name), html.escape(text), classes_of(setup)

    def uploaded(path: str, is_busy: bool, visitor: gr.Request):
        check_idle(is_busy)
        newest.end(visitor)
        return take(LAB.upload(path))

    def sketched(is_busy: bool, event: gr.EventData, visitor: gr.Request):
        check_idle(is_busy)
        newest.end(visitor)
        strokes = getattr(event, "strokes", None)
        strokes = strokes if isinstance(strokes, list) and len(strokes) <= 60 and all(isinstance(s, list) for s in strokes) else []
        return take(LAB.draw([s[:500] for s in strokes]))

    def stopped() -> dict:
        return {view: UNLOCK, note: "Stopped.", **at_rest()}

    def failed() -> dict:
        return {view: UNLOCK, note: "", **at_rest()}

    starts = [(start, go, plane_inputs), (train, learn, training_inputs)]
    for event in wire_runs(starts, stop, [kept_name, view, note, busy, start, stop, *closed], stopped, failed, newest=newest):
        event.success(guarded(redrawn), plane_inputs, [view], **HIDDEN)
    for component in (data, noise, *mixture.values()):
        component.change(
            guarded(fresh), plane_inputs, [kept_name, view, note, label, *mixture.values()], trigger_mode="always_last", **HIDDEN
        )
    tab.select(guarded(opened), plane_inputs, [view, note], **HIDDEN)
    for component in (kind, level):
        component.change(guarded(show_field), plane_inputs, [view, note], trigger_mode="always_last", **HIDDEN)
    contour.click(guarded(show_contours), plane_inputs, [view, note], **HIDDEN)
    upload.upload(guarded(uploaded), [upload, busy], [kept_name, view, note, label], **HIDDEN)
    view.sketch(guarded(sketched), [busy], [kept_name, view, note, label], **HIDDEN)
    experiments.build(c, setup_of)


def parse_betas(text: object, schedule: str = "linear") -> dict:
    """{"beta_start", "beta_end"} from "0.0001, 0.02"; {} from an empty text. Raises ValueError, also for a schedule without betas."""
    parts = [p for p in str(text or "").replace(";", ",").split(",") if p.strip()]
    if not parts:
        return {}
    try:
        low, high = (float(p) for p in parts)
    except ValueError:
        raise ValueError(f"betas are {str(text)[:40]!r}; two numbers between 0 and 1 are accepted, as 0.0001, 0.02") from None
    if "beta_start" not in inspect.signature(SCHEDULES[schedule]).parameters:
        raise ValueError(f"the {schedule} schedule has no betas to set: choose linear or quadratic, or leave Betas empty")
    return {"beta_start": low, "beta_end": high}
