"""Train: start, watch, pause, stop, resume and fork training runs, from any browser."""

from __future__ import annotations

import html
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import gradio as gr

from ddpm_app.images.archive import unpack_images
from ddpm_app.paths import PROJECT, runs_dir
from ddpm_app.studio.studio import Studio
from ddpm_app.training import runs
from ddpm_app.training.config import LR, TrainConfig
from ddpm_app.ui.components.run_view import RunView
from ddpm_app.ui.components.time_machine import TimeMachine
from ddpm_app.ui.events import HIDDEN, INSTANT, guarded
from ddpm_app.ui.forms.training import OWN, Form
from ddpm_app.ui.shell import Shell

DERIVED = ("batch", "lr", "warmup", "ema", "validations")  # controls that a probe sets
PROBE_SECONDS = 90  # time limit of a probe, which measures for 15 s


def note(text: str = "") -> str:
    return f"<p class='note'>{html.escape(text)}</p>"


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


ELSEWHERE = "<p class='purpose'>Training needs your own computer: <code>python train/train_unet.py --data cifar10 --minutes 60</code></p>"


def build_view(shell: Shell) -> None:
    if os.environ.get("SPACE_ID"):  # a Space gives its GPU for seconds only, and to every visitor
        gr.HTML(ELSEWHERE, apply_default_css=False)
    else:
        build(shell.studio)


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
            form, fresh = Form(), gr.State(False)  # whether the prediction above is for these settings
            command = gr.Code(
                "", language="shell", label="The same from a shell", interactive=False, wrap_lines=True, lines=3, max_lines=9,
                elem_classes="mono", elem_id="train-command",
            )  # fmt: skip
        with gr.Column(scale=3, min_width=320):
            view = RunView(elem_id="train-view")
            TimeMachine(studio, elem_id="train-time")

    def command_of(values: dict) -> str:
        try:
            settings = form.settings(values)
            out = runs.short(str(runs_dir() / runs.check_name(form.name_of(values, settings))))
            argv = runs.flags(settings, out, str(values[form.init] or "").strip(), bool(values[form.now]))
            return runs.shown([*argv, *form.extra(values)])
        except (ValueError, TypeError, OverflowError) as error:  # among them NaN and numbers that are too large
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
            raise ValueError(
                f"the measurement took more than {PROBE_SECONDS} s: the network is too large for this machine, or the machine is busy"
            ) from None
        if done.returncode:
            raise ValueError((done.stderr.strip().splitlines() or ["the measurement failed"])[-1].removeprefix("train_unet: "))
        plan_values = json.loads(done.stdout.splitlines()[-1])
        derived = {getattr(form, k): plan_values[k] for k in DERIVED}
        yield {plan: note(predicted(plan_values)), probe: gr.Button(interactive=True), fresh: True, **derived}

    def stale(is_fresh: bool):
        return (note("Changed since it was measured; Measure predicts anew."), False) if is_fresh else (gr.skip(), gr.skip())

    def choose(data):
        is_folder = data == OWN
        return gr.Textbox(visible=is_folder), gr.File(visible=is_folder), gr.Slider(visible=is_folder)

    def unpack(path):
        if not path:
            return gr.skip(), gr.skip()
        place, counts, bad = unpack_images(Path(path), runs_dir() / ".data")
        class_counts = ", ".join(f"{name} {n}" for name, n in counts.most_common(8)) + (", …" if len(counts) > 8 else "")
        text = f"{sum(counts.values()):,} images in {len(counts)} {'class' if len(counts) == 1 else 'classes'}: {class_counts}."
        if bad:
            text += f" {len(bad)} cannot be read and will be skipped: {', '.join(bad[:3])}{', …' if len(bad) > 3 else ''}."
        return str(place), note(text)

    def fork(event: gr.EventData):
        chosen = event._data if isinstance(event._data, dict) else {}
        gr.Info("Its settings are on the form, with the snapshot under Advanced. Change what you like, then start.")
        return form.from_run(runs.find(str(chosen.get("run"))), str(chosen.get("snapshot")))

    # .input: only changes by the visitor, not those by a measurement or a fork
    changed = [getattr(form, k).input for k in ("data", "path", "size", "preset", "minutes", "batch", "ema", "validations", "further")]
    gr.on(changed, stale, fresh, [plan, fresh], **INSTANT)
    start.click(guarded(begin), set(form.fields), [view, form.name, form.init], trigger_mode="once", **HIDDEN)
    measured = probe.click(
        guarded(measure), set(form.fields), [plan, probe, fresh, *(getattr(form, k) for k in DERIVED)],
        concurrency_id="probe", concurrency_limit=1, trigger_mode="once", **HIDDEN,
    )  # fmt: skip
    measured.failure(lambda: (note(), gr.Button(interactive=True)), None, [plan, probe], **INSTANT)
    form.preset.input(lambda preset: LR.get(preset, TrainConfig.lr), form.preset, form.lr, **INSTANT)
    form.data.change(choose, form.data, [form.path, form.zip, form.size], **INSTANT)
    unpacked = form.zip.upload(guarded(unpack), form.zip, [form.path, plan], **HIDDEN)
    for event in (unpacked.failure, form.zip.clear):  # without a valid ZIP, no earlier one stays selected
        event(lambda: ("", note()), None, [form.path, plan], **INSTANT)
    view.recall(guarded(fork), None, form.fields, **HIDDEN)
    listeners = [f.change for f in form.fields if f is not form.zip]
    gr.on(listeners, command_of, set(form.fields), command, queue=False, trigger_mode="always_last", **HIDDEN)
    command.value = command_of({f: f.value for f in form.fields})
