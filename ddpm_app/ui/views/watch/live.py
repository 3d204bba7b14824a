"""A live run in the player of Watch: nine pictures or a cloud of points, level by level, until it ends or is stopped."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import gradio as gr
import numpy as np

from ddpm_app.paths import SHIPPED
from ddpm_app.studio.recordings import PICTURES, cloud, describe, describe_points, guess_jpeg, noise_png
from ddpm_app.studio.request import Request
from ddpm_app.studio.studio import Studio
from ddpm_app.toy.checkpoint import load_toy
from ddpm_app.ui.components.base import b64
from ddpm_app.ui.components.watch import SUBJECTS, Watch
from ddpm_app.ui.events import Throttle, friendly, wire_runs
from ddpm_app.ui.forms.sampling import UI_SEED
from ddpm_app.ui.replay import RECORDINGS


def model_for(studio: Studio, name: str) -> str:
    """The checkpoint of a recording, or the first one whose name begins like it. Raises ValueError if there is none."""
    names = studio.checkpoints()
    fitting = [n for n in names if n == name] + [n for n in names if n.startswith(name)]
    if not fitting:
        raise ValueError(f"there is no model {name!r} here; train one, or put it into checkpoints/")
    return fitting[0]


def picture_messages(studio: Studio, subject: str, run: str) -> Iterator[dict]:
    """Nine new pictures of the classes of the recording."""
    what = PICTURES[subject]._replace(checkpoint=model_for(studio, PICTURES[subject].checkpoint))
    config = studio.checkpoint(what.checkpoint).config
    classes = config.classes if config.network.num_classes else ()
    known = all(label in classes for label in what.labels)
    labels = np.array([classes.index(label) if known else -1 for label in what.labels], np.int64)
    seed, n = random.randrange(UI_SEED), len(labels)
    description = describe(studio, what, range(seed, seed + n))
    head = {"description": description}
    noise = noise_png(studio, what, range(seed, seed + n))
    RECORDINGS.add(run, noise, description)
    yield {"at": 0, "frames": [b64(noise)], **head}
    request = Request(
        checkpoint=what.checkpoint, label="none", n=n, guidance=what.guidance, sampler="ddim", evaluations=description["steps"], seed=seed
    )
    throttle, began, sent, waiting = Throttle(), time.monotonic(), 1, []
    for frame in studio.sample(request, labels=labels):
        if frame.i >= sent + len(waiting):  # the first frame is the noise, which the page has
            data = guess_jpeg(frame.x0)
            RECORDINGS.add(run, data)
            waiting.append(b64(data))
        if frame.done or throttle.due():
            took = time.monotonic() - began
            left = took / frame.i * (frame.n - frame.i) if frame.i else None
            yield {"at": sent, "frames": waiting, "left": left, "took": took, "done": frame.done, **head}
            sent, waiting = sent + len(waiting), []


def point_messages(run: str) -> Iterator[dict]:
    """New points, all levels in one message: the whole run takes less than a second."""
    model, seed, began = load_toy(SHIPPED / "toy" / "spirals"), random.randrange(UI_SEED), time.monotonic()
    x_t, x0, classes = cloud(model, seed)
    frames = [[b64(x.tobytes()), b64(guess.tobytes())] for x, guess in zip(x_t, [*x0, x_t[-1]])]
    took = time.monotonic() - began
    yield {
        "at": 0, "frames": frames, "arm": b64(classes.tobytes()), "took": took, "done": True, "description": describe_points(model, seed),
    }  # fmt: skip


def build(studio: Studio, view: Watch) -> None:
    """Hidden buttons, which the player presses, and the runs that they begin and stop."""

    def handler(subject: str):
        def run_live(values: dict):
            run = RECORDINGS.new()
            try:
                for message in point_messages(run) if subject == "points" else picture_messages(studio, subject, run):
                    yield {view: {"run": run, "subject": subject, **message}}
            except Exception as error:
                yield {view: {"run": run, "subject": subject, "error": friendly(error).message}}

        return run_live

    starts = [(gr.Button(f"Run {s} live", visible="hidden", elem_id=f"watch-live-{s}"), handler(s), set()) for s in SUBJECTS]
    stop = gr.Button("Stop", visible="hidden", elem_id="watch-stop")
    buttons = {button for button, _, _ in starts}

    def at_rest() -> dict:
        return {stop: gr.Button(interactive=False), **{button: gr.Button(interactive=True) for button in buttons}}

    wire_runs(starts, stop, [view, stop, *buttons], at_rest, at_rest)
