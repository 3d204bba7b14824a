"""What guidance and re-ranking do to a model's images: agreement with the requested class, confidence, CLIP similarity, time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ddpm_app.classifiers.metrics import wilson_interval
from ddpm_app.flags import setting
from ddpm_app.images.pixels import to_model
from ddpm_app.studio.request import Request
from ddpm_app.studio.studio import Studio


@dataclass(frozen=True)
class SteeringPlan:
    """What to compare.

    checkpoint:         name of a class-conditional model
    n:                  images of each row, the classes one after the other
    evaluations:        network evaluations per image
    seed:               of the first image
    classifier_scales:  of classifier guidance, with the model's prediction without a class
    on_top:             of classifier guidance, with the model's prediction for the class
    candidates:         re-ranking keeps the best of so many; 1 is no re-ranking
    text:               CLIP guidance toward this text takes the place of the other rows
    text_scales:        of CLIP guidance
    text_through:       denoiser or x0, as in Request
    text_class:         the class that the text describes, for the agreement
    """

    checkpoint: str
    n: int = setting(100, "images of each row, the classes one after the other")
    evaluations: int = setting(20, "network evaluations per image")
    seed: int = setting(0, "seed of the first image")
    classifier_scales: tuple[float, ...] = setting((), "scales of classifier guidance of the unconditional model, e.g. 1,2,4")
    on_top: tuple[float, ...] = setting((), "scales of classifier guidance of the conditional model")
    candidates: int = setting(1, "re-ranking: keep the best of this many (default 1: no re-ranking)")
    text: str = setting("", "measure CLIP guidance toward this text instead of the other rows")
    text_scales: tuple[float, ...] = setting((0.0, 30.0), "scales of CLIP guidance (default 0,30)")
    text_through: str = setting(Request.text_through, "denoiser or x0")
    text_class: str = setting("", "class that the text describes, for the agreement")


def steering_requests(plan: SteeringPlan, colour: bool) -> list[tuple[str, Request]]:
    """(name, request) of each row. colour: whether the model makes colour images; CLIP ranks only those."""
    base = Request(plan.checkpoint, "all", plan.n, 1.0, evaluations=plan.evaluations, seed=plan.seed)
    best = f"best of {plan.candidates} by"
    if plan.text:
        text = replace(base, label=plan.text_class or "none", guidance=0.0, text=plan.text, text_through=plan.text_through)
        rows = [(f"text scale {scale:g}", replace(text, text_scale=scale)) for scale in plan.text_scales]
        ranked = replace(text, text_scale=0.0, candidates=plan.candidates, rank_by="clip")
        return rows + ([(f"{best} CLIP", ranked)] if plan.candidates > 1 else [])
    unconditional = replace(base, guidance=0.0)
    rows = [("unconditional", unconditional), ("conditional", base), ("classifier-free 1.5", replace(base, guidance=1.5))]
    rows += [(f"unconditional + classifier {s:g}", replace(unconditional, classifier_scale=s)) for s in plan.classifier_scales]
    rows += [(f"conditional + classifier {s:g}", replace(base, classifier_scale=s)) for s in plan.on_top]
    if plan.candidates > 1:
        rows.append((f"conditional, {best} classifier (circular)", replace(base, candidates=plan.candidates, rank_by="classifier")))
        if colour:
            rows.append((f"conditional, {best} clip", replace(base, candidates=plan.candidates, rank_by="clip")))
    return rows


def measure_steering(studio: Studio, plan: SteeringPlan) -> Iterator[dict]:
    """Yield each row: {figure's name: value}. Raises ValueError for a setting that is not accepted."""
    colour = studio.checkpoint(plan.checkpoint).config.network.in_channels == 3
    for name, request in steering_requests(plan, colour):
        yield {"row": name, **_measure_row(studio, request, plan.text)}


def _measure_row(studio: Studio, request: Request, text: str) -> dict:
    config = studio.checkpoint(request.checkpoint).config
    start = time.perf_counter()
    ranked = studio.ranked(request)
    seconds = time.perf_counter() - start
    images, n = torch.from_numpy(ranked.images).permute(0, 3, 1, 2).contiguous(), len(ranked.images)
    row = {"n": n, "ms an evaluation": round(1000 * seconds / (n * request.candidates * request.true_evaluations), 2)}
    if ranked.labels.min() >= 0:
        if text:  # the training of CLIP's image tower began with the weights of the other classifier
            with torch.inference_mode():
                probabilities = studio.steering.noisy(config).log_probabilities(to_model(images).to(studio.device), 0.0).exp().cpu()
        else:
            probabilities = studio.steering.classifier(config).classify(images)
        hits = int((probabilities.argmax(1) == torch.from_numpy(ranked.labels)).sum())
        low, high = wilson_interval(hits, n)
        row |= {"agreement": hits / n, "interval95": [round(low, 3), round(high, 3)]}
        row |= {"mean confidence": round(float(probabilities.max(1).values.mean()), 3)}
    if text or config.network.in_channels == 3 and ranked.labels.min() >= 0:
        try:
            similarity = studio.steering.scores(replace(request, rank_by="clip", text=text), config, images.numpy(), ranked.labels)
            row |= {"CLIP similarity": round(float(similarity.mean()), 4), "error": round(float(similarity.std(ddof=1) / n**0.5), 4)}
        except ValueError as error:
            row |= {"CLIP similarity": None, "why": str(error)}
    if request.candidates > 1:
        row |= {"score of the kept": round(float(ranked.scores.max(0).mean()), 4), "of all": round(float(ranked.scores.mean()), 4)}
    return row
