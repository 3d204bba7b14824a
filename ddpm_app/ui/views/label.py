"""CLIP: zero-shot labels of the last grid, of a checkpoint's samples or of uploads, and scores computed from them."""

from __future__ import annotations

import queue
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

import gradio as gr
import torch

from ddpm_app.classifiers import clip as clip_labels
from ddpm_app.classifiers.clip_scores import check_prompts, class_prompts, rank
from ddpm_app.images import render
from ddpm_app.images.datasets import CIFAR10_CLASSES
from ddpm_app.studio import exports
from ddpm_app.studio.clip_report import Pictures, Report, read_pictures, report
from ddpm_app.studio.studio import Studio
from ddpm_app.ui.components import clip_table
from ddpm_app.ui.events import HIDDEN, INSTANT, guarded, idle, run_buttons, running, wire_run
from ddpm_app.ui.forms.sampling import Controls, build_controls
from ddpm_app.ui.replay import RECORDINGS
from ddpm_app.ui.shell import Shell

GRID, CHECKPOINT, UPLOADS = "The last generated grid", "New samples of the model", "Uploads"
MOST_PROMPTS, MOST_IMAGES = 100, 64
KEPT = 16  # reports whose images can still be ranked

_REPORTS: OrderedDict[str, tuple[Report, list[str]]] = OrderedDict()
_LOCK = threading.Lock()


def keep(r: Report, urls: list[str]) -> str:
    """Keep a report under an unguessable name, and drop the oldest."""
    name = secrets.token_urlsafe(9)
    with _LOCK:
        _REPORTS[name] = (r, urls)
        while len(_REPORTS) > KEPT:
            _REPORTS.popitem(last=False)
    return name


def prompts_for(studio: Studio, name: str | None) -> str:
    checkpoint = studio.checkpoints().get(name or "")
    return "\n".join(class_prompts(checkpoint.config.classes if checkpoint and checkpoint.config.classes else CIFAR10_CLASSES))


def run_in_thread(work, *args):
    """Run work(*args, report_progress) in a thread. Yields (share, text) of its progress, then its result. Raises its error."""
    messages: queue.Queue = queue.Queue()

    def run():
        try:
            messages.put(("done", work(*args, lambda share, text: messages.put(("progress", (share, text))))))
        except BaseException as error:
            messages.put(("error", error))

    threading.Thread(target=run, daemon=True).start()
    while True:
        kind, value = messages.get()
        while kind == "progress" and not messages.empty():  # only the newest
            kind, value = messages.get()
        if kind == "error":
            raise value
        yield value
        if kind == "done":
            return


def build_view(shell: Shell) -> None:
    shell.follows_model(build(shell.studio, shell.model, shell.last_run))


def build(studio: Studio, model: gr.Dropdown, last_run: gr.State) -> Controls:
    gr.HTML(
        "<p class='purpose'>Which words fit a picture best? CLIP compares every image with every prompt.</p>",
        apply_default_css=False,
    )
    with gr.Row(elem_classes="main-row"):
        with gr.Column(scale=1, min_width=300, elem_classes="controls"):
            start, stop = run_buttons("Label", "clip")
            source = gr.Radio([GRID, CHECKPOINT, UPLOADS], value=GRID, label="Pictures", elem_id="clip-source")
            files = gr.File(
                label=f"Up to {MOST_IMAGES} images",
                file_count="multiple",
                file_types=["image"],
                visible=False,
                height=170,
                elem_id="clip-files",
            )
            name = gr.Dropdown(
                list(clip_labels.SUGGESTED),
                value="shipped",
                allow_custom_value=True,
                label="CLIP",
                info="shipped knows CIFAR-10 only. Others are downloaded once (600 MB and more); type any MODEL:PRETRAINED of open_clip.",
                elem_id="clip-name",
            )
            prompts = gr.Textbox(
                prompts_for(studio, model.value),
                label="Prompts",
                info="One a line.",
                lines=10,
                max_lines=14,
                max_length=40_000,
                elem_id="clip-prompts",
            )
            reset = gr.Button("One prompt a class", min_width=120, elem_id="clip-reset")
            with gr.Group(visible=False, elem_id="clip-request") as request_box:
                controls = build_controls(studio, model, n=20, most=MOST_IMAGES, can_unlock=False)
        with gr.Column(scale=3, min_width=320):
            view = clip_table.ClipTable(clip_table.EMPTY, elem_id="clip-view")
            with gr.Row(elem_classes="plain-row"):
                words = gr.Textbox(
                    label="Rank these images by words", placeholder="a red car", max_length=300, scale=4, elem_id="clip-words"
                )
                order = gr.Button("Rank", scale=1, min_width=100, elem_id="clip-rank")
            ranked = clip_table.ClipTable("", elem_id="clip-ranked")
    shown = gr.State("")

    def pictures(values: dict, size: int):
        """Yields (share, text) while sampling, then the Pictures."""
        if values[source] == UPLOADS:
            paths = values[files] or []
            if not paths:
                raise ValueError("no pictures are uploaded; upload some, or choose other pictures")
            if len(paths) > MOST_IMAGES:
                raise ValueError(f"{len(paths)} files were uploaded; at most {MOST_IMAGES} are accepted")
            yield read_pictures([(Path(p).name[:60], Path(p)) for p in paths], size, studio)
        elif values[source] == CHECKPOINT:
            request, _ = controls.request({**values, controls.lock: True})
            for frame in studio.sample(request):
                if not frame.done:
                    yield frame.i / frame.n, f"evaluation {frame.nfe} of {frame.evaluations}"
            config = studio.checkpoint(request.checkpoint).config
            yield Pictures(torch.from_numpy(frame.x), torch.from_numpy(frame.labels), config.classes, config.data)
        else:
            run = RECORDINGS.get(values[last_run])
            if run is None or not run.frames:
                raise ValueError("there is no generated grid yet: generate one in the first tab, or choose other pictures")
            yield read_pictures([(f"image {i + 1}", png) for i, png in enumerate(run.frames)], None, studio)

    def label(values: dict):
        lines = check_prompts(str(values[prompts] or ""), MOST_PROMPTS)
        yield {view: clip_table.waiting("loading CLIP"), ranked: "", shown: "", **running(start, stop)}
        for clip in run_in_thread(clip_labels.load_clip, str(values[name] or ""), studio.device):
            if isinstance(clip, tuple):
                yield {view: clip_table.waiting(clip[1], clip[0])}
        for batch in pictures(values, clip.image_size):
            if isinstance(batch, tuple):
                yield {view: clip_table.waiting(batch[1], batch[0])}

        def make_report(report_progress):
            return report(clip, batch, lines, lambda k, n: report_progress(k / n, f"image {k} of {n}"))

        for r in run_in_thread(make_report):
            if isinstance(r, tuple):
                yield {view: clip_table.waiting(r[1], r[0])}
        urls = [render.data_url(render.encode(exports.picture(image), "png")) for image in batch.images.numpy()]
        yield {view: clip_table.page(r, urls), shown: keep(r, urls), **idle(start, stop)}

    inputs = controls.inputs | {source, files, name, prompts, last_run}
    wire_run(start, stop, label, inputs, [view, ranked, shown], "clip-view", {view: clip_table.EMPTY}, {view: clip_table.STOPPED})

    def by_words(text: str, kept: str):
        (prompt,) = check_prompts([str(text or "")], 1)
        with _LOCK:
            entry = _REPORTS.get(kept if isinstance(kept, str) else "")
        if entry is None:
            raise ValueError("label pictures first: then words can rank them")
        r, urls = entry
        index, values = rank(r.features, r.clip.text([prompt]))
        return clip_table.ranking(prompt, index.tolist(), values.tolist(), urls, r.clip.unknown_words(prompt))

    for trigger in (order.click, words.submit):
        trigger(guarded(by_words), [words, shown], ranked, **HIDDEN)
    source.change(
        lambda s: (gr.File(visible=s == UPLOADS), gr.Group(visible=s == CHECKPOINT)),
        source, [files, request_box], **INSTANT,
    )  # fmt: skip
    reset.click(lambda n: prompts_for(studio, n), model, prompts, **INSTANT)

    def follow(model_name, text):
        """The prompts become those of the new model's classes, unless the visitor wrote them."""
        generated = {prompts_for(studio, n) for n in studio.checkpoints()}
        return prompts_for(studio, model_name) if str(text).strip() in generated else gr.skip()

    model.change(follow, [model, prompts], prompts, **HIDDEN, trigger_mode="always_last")
    return controls
