"""The "Steer" controls (CLIP guidance, classifier guidance, re-ranking), the Request's fields they set, and the view of a ranking."""

from __future__ import annotations

from dataclasses import dataclass

import gradio as gr
import numpy as np

from ddpm_app.diffusion.schedules import SIGMA_CAP
from ddpm_app.flags import whole
from ddpm_app.studio.exports import request_from_settings
from ddpm_app.studio.request import MAX_TEXT, Request
from ddpm_app.studio.steering import best_of, clip_refusal
from ddpm_app.studio.studio import MAX_BATCH, Studio
from ddpm_app.ui.events import INSTANT
from ddpm_app.ui.forms.sampling import bounds

GRADIENTS = [("x, through the denoiser", "denoiser"), ("x0 alone", "x0")]
RANKINGS = [("the classifier: probability of the class", "classifier"), ("CLIP: similarity to the text, or to the class", "clip")]


@dataclass
class Steer:
    """The components of the accordion."""

    text: gr.Textbox
    text_scale: gr.Slider
    through: gr.Radio
    classifier_scale: gr.Slider
    low: gr.Number
    high: gr.Number
    candidates: gr.Slider
    rank_by: gr.Radio

    @property
    def inputs(self) -> set:
        return set(vars(self).values())

    def fields(self, values: dict) -> dict:
        """The Request's steering fields as the page shows them."""
        return dict(
            text=" ".join(str(values[self.text] or "").split()),
            text_scale=values[self.text_scale],
            text_through=str(values[self.through]),
            classifier_scale=values[self.classifier_scale],
            steer_low=values[self.low] or 0.0,
            steer_high=float("inf") if (values[self.high] or SIGMA_CAP) >= SIGMA_CAP else values[self.high],
            candidates=whole(values[self.candidates], "candidates"),
            rank_by=str(values[self.rank_by]),
        )

    def restore(self, settings: dict) -> dict:
        """Updates that set the controls to the settings of a dropped PNG. It is one image, so candidates is 1."""
        r = request_from_settings({**settings, "label": None}, ())
        return {
            self.text: r.text,
            self.text_scale: r.text_scale,
            self.through: r.text_through,
            self.classifier_scale: r.classifier_scale,
            self.low: r.steer_low,
            self.high: min(r.steer_high, SIGMA_CAP),
            self.candidates: 1,
        }


def advice(studio: Studio, name: str | None) -> str:
    """The kinds of steering that this model does not allow, at most two sentences."""
    checkpoint = studio.checkpoints().get(name or "")
    if checkpoint is None:
        return ""
    refusal = clip_refusal(checkpoint.config)
    sentences = [refusal[0].upper() + refusal[1:]] if refusal else []
    if not studio.steering.has_noisy(checkpoint.config):
        sentences.append("There is no noise-aware classifier of this model's data, so classifier guidance is off")
    return " ".join(s + "." for s in sentences)


def build_steer(studio: Studio, model: gr.Dropdown) -> Steer:
    with gr.Accordion("Steer", open=False, elem_id="steer"):
        note = gr.Markdown(
            advice(studio, model.value), elem_classes="note", visible=bool(advice(studio, model.value)), elem_id="steer-note"
        )
        text = gr.Textbox(
            "", label="Toward a text (CLIP guidance)", placeholder="a photo of a red car", max_lines=1, max_length=MAX_TEXT,
            info="At each step the gradient of CLIP's similarity to this text moves the predicted x0.", elem_id="steer-text",
        )  # fmt: skip
        text_scale = gr.Slider(
            *bounds("text_scale"), value=Request.text_scale, step=1, label="Text scale",
            info="How hard. 0 is off; too much paints what only CLIP sees.",
        )  # fmt: skip
        through = gr.Radio(
            GRADIENTS, value=Request.text_through, label="Its gradient goes to",
            info="x through the denoiser moves what makes a picture; x0 alone is twice as fast and paints strokes.",
        )  # fmt: skip
        classifier_scale = gr.Slider(
            *bounds("classifier_scale"), value=Request.classifier_scale, step=0.5, label="Classifier scale",
            info="Times σ² ∇ log p(class | x, σ) of a noise-aware classifier. 0 is off; 1 is Bayes' rule where s = 0.",
        )  # fmt: skip
        with gr.Row():
            low = gr.Number(0, label="Steer above σ", minimum=0, min_width=90)
            high = gr.Number(SIGMA_CAP, label="up to σ", minimum=0, min_width=90)  # the highest sigma of any grid: no limit
        candidates = gr.Slider(
            1, 16, value=Request.candidates, step=1, label="Candidates per image",
            info=f"Re-ranking, or best of n: this many are denoised, the best is kept. At most {MAX_BATCH} in all.",
        )  # fmt: skip
        rank_by = gr.Radio(RANKINGS, value=Request.rank_by, label="Keep the best by")
    model.change(
        lambda name: gr.Markdown(advice(studio, name), visible=bool(advice(studio, name))),
        model, note, **INSTANT,
    )  # fmt: skip
    return Steer(text, text_scale, through, classifier_scale, low, high, candidates, rank_by)


def settings_of(request: Request) -> list[list[str]]:
    """[name, text] of each steering setting of an image, for the list beside it."""
    shown = [["toward", f"{request.text} (scale {request.text_scale:g})"]] if request.text and request.text_scale else []
    return shown + ([["classifier scale", f"{request.classifier_scale:g}"]] if request.classifier_scale else [])


def ranked_view(request: Request, scores: np.ndarray) -> dict:
    """For the grid: indices of the kept candidates in the order of their cells, of the rejected ones from best to worst; scores as text."""
    kept = best_of(scores, request.n)
    rejected = np.setdiff1d(np.arange(len(scores)), kept)
    rejected = rejected[np.argsort(-scores[rejected], kind="stable")]
    score_name = "probability of the class" if request.rank_by == "classifier" else "CLIP similarity"
    means = f"mean {score_name} {scores[kept].mean():.3f}; all {len(scores)} candidates {scores.mean():.3f}"
    return {
        "kept": [int(j) for j in kept],
        "rejected": [int(j) for j in rejected],
        "scores": [f"{s:.3f}" for s in scores],
        "score_name": score_name,
        "means": means,
    }
