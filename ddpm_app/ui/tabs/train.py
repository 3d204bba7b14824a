"""Train: a budget in minutes becomes a run; it is watched, paused, stopped, resumed and forked here, from any browser."""

from __future__ import annotations

import html
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import gradio as gr

from ddpm_app.diffusion.denoiser import ROWS, WEIGHTS
from ddpm_app.diffusion.schedules import SCHEDULES
from ddpm_app.flags import parse_flags, settings_to_flags
from ddpm_app.images.archive import unpack_images
from ddpm_app.networks.device import pick_device
from ddpm_app.networks.unet import PRESETS
from ddpm_app.paths import PROJECT, runs_dir
from ddpm_app.studio.studio import Studio
from ddpm_app.training import runs
from ddpm_app.training.config import LR, TrainConfig
from ddpm_app.training.probe import VALIDATIONS
from ddpm_app.ui.components.run_view import TrainView
from ddpm_app.ui.components.time_machine import TimeView
from ddpm_app.ui.events import guarded

OWN = "own"
DATA = [
    ("MNIST (28 × 28, grey)", "mnist"),
    ("CIFAR-10 (32 × 32, colour)", "cifar10"),
    ("Digits (8 × 8, no download)", "digits"),
    ("Own images", OWN),
]
DERIVED = ("batch", "lr", "warmup", "ema", "validations")  # controls that a probe sets
PROBE_SECONDS = 90  # after which a probe is given up; it measures for 15
HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}


def note(text: str = "") -> str:
    return f"<p class='note'>{html.escape(text)}</p>"


def whole(value, name: str) -> int:
    if value is None:
        raise ValueError(f"{name} is empty; a whole number is accepted")
    if not isinstance(value, (int, float)) or value != int(value):
        raise ValueError(f"{name} is {value!r}; a whole number is accepted")
    return int(value)


def own_data(path: str) -> str:
    """A folder or .npz of this machine, as an absolute path. Raises ValueError."""
    if not path.strip():
        raise ValueError("give a folder with one sub-folder a class, or upload a ZIP of one")
    place = Path(path.strip()).expanduser()
    if not (place.is_dir() or (place.is_file() and place.suffix == ".npz")):
        raise ValueError(f"{path.strip()[:200]} is neither a folder nor an .npz file on the machine the studio runs on")
    return str(place.resolve())


def predicted(plan: dict) -> str:
    gap, unit = plan["minutes"] / plan["validations"], "minutes"
    if gap < 1:
        gap, unit = 60 * gap, "seconds"
    end = time.strftime("%H:%M", time.localtime(time.time() + 60 * plan["minutes"]))
    return (
        f"{plan['device']}: {plan['images_per_s']:.0f} images/s at batch {plan['batch']}. In {plan['minutes']:g} minutes about "
        f"{plan['images']:,} images, {plan['steps']:,} steps; started now it ends at about {end}. An EMA of {plan['ema']:g} of "
        f"the run (any other can be had afterwards); a saved state about every {gap:.3g} {unit}, with validation and samples where they "
        "stay within 3 % of the time."
    )


FURTHER = ("T", "weight_decay", "decay", "clip", "label_dropout", "flip", "averages", "dropout", "device", "precision", "compile")


def further(text: str) -> dict:
    """Settings without a control of their own, written as flags of train_unet.py: "--T 200 --flip no". Raises ValueError."""
    try:
        return parse_flags(TrainConfig, text, FURTHER)
    except ValueError as error:
        raise ValueError(f"further settings: {error}") from None


def further_text(settings: dict) -> str:
    """What further() reads back as the same settings; those at their defaults are left out."""
    return shlex.join(settings_to_flags(TrainConfig, settings, FURTHER))


class Form:
    """The controls and what they add up to."""

    def __init__(self):
        t = {f.name: f.default for f in TrainConfig.__dataclass_fields__.values()}
        with gr.Group():
            self.data = gr.Dropdown(DATA, value="mnist", label="Data", elem_id="train-data")
            self.path = gr.Textbox(
                label="Folder", placeholder="/home/me/photos", max_length=400, visible=False, elem_id="train-path",
                info="On this machine, one sub-folder a class; or an .npz with arr_0 and arr_1.",
            )  # fmt: skip
            self.zip = gr.File(
                label="Or a ZIP, one sub-folder a class", file_types=[".zip"], height=150, visible=False, elem_id="train-zip"
            )
            self.size = gr.Slider(8, 64, value=32, step=8, label="Pixels a side", visible=False)
            self.preset = gr.Dropdown(
                [("tiny: a CPU's half hour", "tiny"), ("small: a GPU's half hour", "small"), ("ddpm: Ho et al., 35.7 M", "ddpm")],
                value="tiny", label="Network", elem_id="train-preset",
            )  # fmt: skip
            self.row = gr.Dropdown(list(ROWS), value=t["row"], label="Predicts", info="v and edm stand few-step sampling best.")
            self.schedule = gr.Dropdown(list(SCHEDULES), value=t["schedule"], label="Noise schedule")
            self.minutes = gr.Number(30, label="Budget, minutes", elem_id="train-minutes")
        with gr.Accordion("Advanced", open=False):
            # no minimum, maximum or precision: Gradio would refuse, or round, before the command can say why
            self.batch = gr.Number(t["batch"], label="Batch", elem_id="train-batch")
            self.lr = gr.Number(t["lr"], label="Learning rate, peak")
            self.warmup = gr.Number(t["warmup"], label="Warm-up, images")
            self.ema = gr.Number(t["ema"], label="EMA length", info="A share of the run; 0.9 and more is a fixed decay.")
            self.validations = gr.Number(
                VALIDATIONS[1], label="Evaluations", elem_id="train-validations",
                info="Validation, sample grid and saved state, this often over the budget.",
            )  # fmt: skip
            self.weight = gr.Dropdown(
                list(WEIGHTS),
                value=t["weight"],
                label="Loss weight",
                info="min-snr-5 makes better pictures soon; uniform costs fewer bits per dimension.",
            )
            self.seed = gr.Number(0, label="Seed")
            self.further = gr.Textbox(
                "", label="Further settings", placeholder="--T 200 --flip no --label-dropout 0.2", max_lines=1, max_length=300,
                info="Flags of train_unet.py that have no control here.", elem_id="train-further",
            )  # fmt: skip
            self.name = gr.Textbox(label="Name", placeholder="chosen for you", max_length=60, elem_id="train-name")
            self.init = gr.Textbox(label="Begin from the weights in", placeholder="a checkpoint or snapshot folder", max_length=400)
            self.now = gr.Checkbox(False, label="Do not wait for the device", info="Otherwise one run at a time trains; the next waits.")

    @property
    def fields(self) -> list:
        return list(vars(self).values())

    def settings(self, values: dict) -> dict:
        """Fields of TrainConfig. Raises ValueError for what cannot be trained."""
        data = str(values[self.data])
        if data not in [v for _, v in DATA]:
            raise ValueError(f"unknown data {data[:40]!r}")
        numbers = {k: values[getattr(self, k)] for k in ("minutes", "lr", "ema")}
        for k, v in numbers.items():
            if v is None:
                raise ValueError(f"{k} is empty; a number is accepted")
            if not isinstance(v, (int, float)) or isinstance(v, bool):
                raise ValueError(f"{k} is {v!r}; a number is accepted")
        settings = {
            "data": data if data != OWN else own_data(str(values[self.path] or "")),
            **{k: str(values[getattr(self, k)]) for k in ("preset", "row", "schedule", "weight")},
            **{k: float(v) for k, v in numbers.items()},
            **{k: whole(values[getattr(self, k)], k) for k in ("batch", "warmup", "seed")},
            **further(str(values[self.further] or "")),
        }
        if data == OWN and whole(values[self.size], "pixels a side") != 32:
            settings["image_size"] = int(values[self.size])
        for k, names in (("preset", PRESETS), ("row", ROWS), ("schedule", SCHEDULES), ("weight", WEIGHTS)):
            if settings[k] not in names:
                raise ValueError(f"{k} is {settings[k][:40]!r}; {', '.join(names)} are known")
        TrainConfig(**settings)
        pick_device(settings.get("device", "auto"))
        return settings

    def extra(self, values: dict) -> list[str]:
        """Arguments of train_unet.py beside TrainConfig's. Raises ValueError."""
        validations = whole(values[self.validations], "evaluations")
        if not 1 <= validations <= 1000:
            raise ValueError(f"evaluations is {validations}; 1 to 1000 are accepted")
        return [] if validations == VALIDATIONS[1] else ["--validations", str(validations)]

    def name_of(self, values: dict, settings: dict) -> str:
        return str(values[self.name] or "").strip() or runs.free_name(f"{Path(settings['data']).stem}-{settings['preset']}")

    def from_run(self, run: runs.Run, snapshot: str) -> dict:
        """Updates that set every control as the run's, beginning from one of its snapshots."""
        place = next((p for p in run.snapshots() if p.name == snapshot), None)
        if place is None:
            raise ValueError(f"{run.name} has no such snapshot")
        s = {**{f.name: f.default for f in TrainConfig.__dataclass_fields__.values()}, **run.settings}
        own = s["data"] not in [v for _, v in DATA]
        path = str(Path(runs.read_json(run.folder / "job.json").get("cwd") or "", s["data"])) if own else ""  # as the run saw it
        argv = run.job.get("argv") or []
        count = next((after for arg, after in zip(argv, argv[1:]) if arg in ("--validations", "--marks")), "")  # --marks: older runs
        same = {self.validations: int(count) if count.isdecimal() else VALIDATIONS[1]}
        same |= {getattr(self, k): s[k] for k in ("preset", "row", "schedule", "batch", "lr", "warmup", "ema", "weight", "seed")}
        return {
            **same,
            self.data: OWN if own else s["data"],
            self.path: gr.Textbox(path, visible=own),
            self.zip: gr.File(visible=own),
            self.size: gr.Slider(value=s["image_size"] or 32, visible=own),
            self.further: further_text(s),
            self.minutes: s["minutes"] or 30,
            self.name: "",
            self.init: str(place),
        }


def build(studio: Studio) -> None:
    gr.HTML(
        "<p class='purpose'>Give a network minutes and watch it learn. A run is a process of its own: it outlives this page.</p>",
        apply_default_css=False,
    )
    with gr.Row(elem_classes="main-row"):
        with gr.Column(scale=1, min_width=300, elem_classes="controls"):
            with gr.Row(elem_classes="run-row"):
                start = gr.Button("Start training", variant="primary", elem_id="train-start", min_width=150, scale=2)
                probe = gr.Button("Measure", elem_id="train-probe", min_width=90, scale=1)
            plan = gr.HTML(
                note("Measure tries this machine for some 15 s: batch, learning rate, EMA and a predicted end."),
                elem_id="train-plan", apply_default_css=False,
            )  # fmt: skip
            form, fresh = Form(), gr.State(False)  # whether the prediction above is of these settings
            command = gr.Code(
                "", language="shell", label="The same from a shell", interactive=False, wrap_lines=True, lines=3, max_lines=9,
                elem_classes="mono", elem_id="train-command",
            )  # fmt: skip
        with gr.Column(scale=3, min_width=320):
            view = TrainView(elem_id="train-view")
            TimeView(studio, elem_id="train-time")

    def command_of(values: dict) -> str:
        try:
            settings = form.settings(values)
            out = runs.short(str(runs_dir() / runs.check_name(form.name_of(values, settings))))
            argv = runs.flags(settings, out, str(values[form.init] or "").strip(), bool(values[form.now]))
            return runs.shown([*argv, *form.extra(values)])
        except (ValueError, TypeError, OverflowError) as error:  # numbers that are none, or too large, among them
            return f"# {error}"

    def begin(values: dict):
        settings = form.settings(values)
        init = str(values[form.init] or "").strip()
        run = runs.start(settings, form.name_of(values, settings), init=init, now=bool(values[form.now]), extra=form.extra(values))
        return {view: {"select": run.name, "stamp": time.time()}, form.name: "", form.init: ""}

    def measure(values: dict):
        settings = form.settings(values)
        yield {plan: note("Measuring: a few training steps at each batch…"), probe: gr.Button(interactive=False)}
        argv = [sys.executable, str(runs.SCRIPT), *runs.flags(settings, "probe"), "--probe"]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=PROBE_SECONDS, cwd=PROJECT)
        except subprocess.TimeoutExpired:
            raise ValueError(f"no answer within {PROBE_SECONDS} s: this network is too large for this machine, or it is busy") from None
        if done.returncode:
            raise ValueError((done.stderr.strip().splitlines() or ["the probe ended without a word"])[-1].removeprefix("train_unet: "))
        found = json.loads(done.stdout.splitlines()[-1])
        derived = {getattr(form, k): found[k] for k in DERIVED}
        yield {plan: note(predicted(found)), probe: gr.Button(interactive=True), fresh: True, **derived}

    def stale(told: bool):
        return (note("Changed since it was measured; Measure predicts anew."), False) if told else (gr.skip(), gr.skip())

    def choose(data):
        own = data == OWN
        return gr.Textbox(visible=own), gr.File(visible=own), gr.Slider(visible=own)

    def unpack(path):
        if not path:
            return gr.skip(), gr.skip()
        place, counts, bad = unpack_images(Path(path), runs_dir() / ".data")
        found = ", ".join(f"{name} {n}" for name, n in counts.most_common(8)) + (", …" if len(counts) > 8 else "")
        text = f"{sum(counts.values()):,} images in {len(counts)} {'class' if len(counts) == 1 else 'classes'}: {found}."
        if bad:
            text += f" {len(bad)} cannot be read and will be skipped: {', '.join(bad[:3])}{', …' if len(bad) > 3 else ''}."
        return str(place), note(text)

    def fork(event: gr.EventData):
        chosen = event._data if isinstance(event._data, dict) else {}
        gr.Info("Its settings are on the form, with the snapshot under Advanced. Change what you like, then start.")
        return form.from_run(runs.find(str(chosen.get("run"))), str(chosen.get("snapshot")))

    # what a person changes; what a measurement or a fork sets is no input
    changed = [getattr(form, k).input for k in ("data", "path", "size", "preset", "minutes", "batch", "ema", "validations", "further")]
    gr.on(changed, stale, fresh, [plan, fresh], queue=False, **HIDDEN)
    start.click(guarded(begin), set(form.fields), [view, form.name, form.init], trigger_mode="once", **HIDDEN)
    measured = probe.click(
        guarded(measure), set(form.fields), [plan, probe, fresh, *(getattr(form, k) for k in DERIVED)],
        concurrency_id="probe", concurrency_limit=1, trigger_mode="once", **HIDDEN,
    )  # fmt: skip
    measured.failure(lambda: (note(), gr.Button(interactive=True)), None, [plan, probe], queue=False, **HIDDEN)
    form.preset.input(lambda preset: LR.get(preset, TrainConfig.lr), form.preset, form.lr, queue=False, **HIDDEN)
    form.data.change(choose, form.data, [form.path, form.zip, form.size], queue=False, **HIDDEN)
    unpacked = form.zip.upload(guarded(unpack), form.zip, [form.path, plan], **HIDDEN)
    for event in (unpacked.failure, form.zip.clear):  # the box above shows no good ZIP: none is trained on
        event(lambda: ("", note()), None, [form.path, plan], queue=False, **HIDDEN)
    view.recall(guarded(fork), None, form.fields, **HIDDEN)
    listeners = [f.change for f in form.fields if f is not form.zip]
    gr.on(listeners, command_of, set(form.fields), command, queue=False, trigger_mode="always_last", **HIDDEN)
    command.value = command_of({f: f.value for f in form.fields})
