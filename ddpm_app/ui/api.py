"""The HTTP API: the same use cases, typed and documented, for gradio_client, curl and MCP."""

from __future__ import annotations

import dataclasses

import gradio as gr

from ddpm_app.checkpoints.facts import model_facts
from ddpm_app.images import render
from ddpm_app.studio import exports
from ddpm_app.studio.studio import Request, Studio
from ddpm_app.ui.events import guarded

API_LIMIT = 64


def build(studio: Studio) -> None:
    def sample(
        checkpoint: str = "",
        label: str = "any",
        n: int = 4,
        guidance: float = Request.guidance,
        sampler: str = "",
        evaluations: int = 0,
        seed: int = 0,
        text: str = "",
        text_scale: float = Request.text_scale,
        classifier_scale: float = Request.classifier_scale,
        candidates: int = Request.candidates,
        rank_by: str = Request.rank_by,
        preset: str = "",
    ) -> list[str]:
        """Denoise images from noise.

        Args:
            checkpoint: Name of a model; empty for the one the page opens with.
            label: A class name or index, "all", "any" or "none".
            n: Number of images, 1 to 64. Image i has seed + i.
            guidance: Classifier-free guidance scale s, 1 is off. Models tuned to few evaluations have their own, which is fixed.
            sampler: dpmpp-2m, unipc, ipndm, heun, ddim, ddpm, ddpm-large or consistency; empty for the model's own.
            evaluations: Denoiser evaluations per image, 1 to 1000; 0 for the model's own number.
            seed: Seed of the first image, 0 or more.
            text: CLIP guidance: a prompt to steer toward; empty for none.
            text_scale: Scale of the CLIP guidance, 0 is off.
            classifier_scale: Scale of the guidance by a noise-aware classifier toward the class, 0 is off.
            candidates: Re-ranking: each image is the best of this many; n times candidates is at most 64 here.
            rank_by: classifier or clip.
            preset: fast, good or exact: replaces guidance, sampler and evaluations; empty for those given.

        Returns:
            One PNG data URL per image; each PNG contains its settings.
        """
        if not isinstance(n, int) or not 1 <= n <= API_LIMIT:
            raise ValueError(f"n is {n!r}; 1 to {API_LIMIT} images are accepted here")
        if not isinstance(candidates, int) or not 1 <= n * candidates <= API_LIMIT:
            raise ValueError(f"candidates is {candidates!r}; n times candidates may be 1 to {API_LIMIT} here")
        chosen = {k: v for k, v in (("sampler", sampler), ("evaluations", evaluations)) if v}
        request = studio.request(
            checkpoint,
            **chosen,
            label=label,
            n=n,
            guidance=guidance,
            seed=seed,
            text=text,
            text_scale=text_scale,
            classifier_scale=classifier_scale,
            candidates=candidates,
            rank_by=rank_by,
        )
        if preset:
            request = dataclasses.replace(request, **studio.preset(preset, checkpoint))
        ranked = studio.ranked(request)
        rows = zip(ranked.images, ranked.chosen, ranked.labels)
        pngs = [exports.image_png(image.transpose(2, 0, 1), request, int(i), int(label)) for image, i, label in rows]
        return [render.data_url(p) for p in pngs]

    def models() -> list[dict]:
        """List the models: name, data, classes, parameters, images seen, measured numbers.

        Returns:
            One object per model.
        """
        return [model_facts(c) for c in studio.checkpoints().values()]

    gr.api(guarded(sample), api_name="sample", concurrency_id="denoise", concurrency_limit=4)
    gr.api(guarded(models), api_name="models")
