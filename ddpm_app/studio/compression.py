"""Coding of images with a diffusion model, for the Encode tab and the command `code`: bits per dimension, rate and distortion."""

from __future__ import annotations

import io
from collections.abc import Generator, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ddpm_app.diffusion.coding import State, fine_levels, progressive
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.likelihood import FlowLikelihood, flow_likelihood_steps
from ddpm_app.diffusion.schedules import Schedule
from ddpm_app.flags import check, setting
from ddpm_app.images import render
from ddpm_app.studio.exports import picture
from ddpm_app.studio.request import SEED_LIMIT, check_is_denoiser
from ddpm_app.studio.studio import MAX_BATCH, Studio

VARIANCES = {"large": "beta_t", "small": "beta_tilde"}
LEVELS = {"schedule": "the schedule's own", "log-snr": "equal steps of log-SNR"}


@dataclass(frozen=True)
class CodeRequest:
    """Settings of the coding: each field with its help and what it accepts."""

    checkpoint: str = setting("", "name in checkpoints/ or runs/ (default: the one the page opens with)", always=True)
    label: str = setting("none", 'class: a name, an index, none, or given (the data\'s own; default "given", for --image none)')
    states: int = setting(60, "noise levels visited; T - 1 or more takes all", low=2, high=100_000)
    variance: str = setting("large", "of the reverse step: large is beta_t, small is beta_tilde", choices=VARIANCES)
    levels: str = setting("schedule", "of the chain: the schedule's own, or equal steps of log-SNR", choices=LEVELS)
    seed: int = setting(0, "seed of times and noise", low=0, high=SEED_LIMIT)

    def __post_init__(self):
        check(self)


def chain(studio: Studio, request: CodeRequest) -> tuple[Denoiser, Schedule]:
    """The network and the noise levels that the code visits."""
    denoiser = studio.denoiser(studio.checkpoint(request.checkpoint))
    return denoiser, denoiser.schedule if request.levels == "schedule" else fine_levels(denoiser.schedule, denoiser.schedule.T)


def _denoise(studio: Studio, request: CodeRequest, denoiser: Denoiser, n: int, given: Tensor | None):
    """A function (x (m n, ...), sigma (m n,)) -> predicted x0 of m states of n images, each with the class of its image."""
    config = studio.checkpoint(request.checkpoint).config
    check_is_denoiser(config, "the code of an image")
    if request.label == "given":
        labels = given if given is not None and config.network.num_classes else None
    else:
        index = studio.class_index(config, request.label)
        labels = torch.full((n,), index) if index >= 0 else None
    if labels is not None and (len(labels) != n or int(labels.max()) >= config.network.num_classes or int(labels.min()) < 0):
        raise ValueError(f"the images' classes do not fit the {config.network.num_classes} of {request.checkpoint}")

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        label = None if labels is None else labels.repeat(len(x) // n).to(studio.device)
        return denoiser(x.to(studio.device), sigma, label).to(x.device)

    return denoise


def check_images(studio: Studio, name: str, images: Tensor) -> Tensor:
    """Return the images. Raises ValueError unless they are 1 to MAX_BATCH images of the model's shape."""
    shape = studio.checkpoint(name).config.network.image_shape
    if tuple(images.shape[1:]) != shape or not 1 <= len(images) <= MAX_BATCH:
        raise ValueError(f"the images are {tuple(images.shape)}; {name} takes 1 to {MAX_BATCH} of {shape}")
    return images


def code(
    studio: Studio, request: CodeRequest, images: Tensor, given: Tensor | None = None, times_seed: int | None = None
) -> Iterator[State]:
    """coding.progressive of images.

    images:     uint8 (n, C, H, W), n <= MAX_BATCH
    given:      (n,) classes of the images, used where request.label is "given"
    times_seed: seed of the visited times (default: request.seed)
    """
    images = check_images(studio, request.checkpoint, images)
    denoiser, schedule = chain(studio, request)
    denoise = _denoise(studio, request, denoiser, len(images), given)
    return studio.exclusively(progressive(denoise, images, schedule, request.states, request.seed, request.variance, 16, times_seed))


def flow(
    studio: Studio, request: CodeRequest, images: Tensor, given: Tensor | None = None, draws: int = 1, steps: int = 50, probes: int = 1
) -> Generator[float, None, FlowLikelihood]:
    """likelihood.flow_likelihood of the images. Yields the share done; returns a FlowLikelihood.

    draws: evaluations of each image with other noise and probes, so that even one image has a standard error
    """
    images = check_images(studio, request.checkpoint, images)
    given = given.repeat_interleave(draws) if given is not None else None
    images = images.repeat_interleave(draws, 0)
    denoiser = studio.denoiser(studio.checkpoint(request.checkpoint))
    denoise = _denoise(studio, request, denoiser, len(images), given)
    return studio.exclusively(flow_likelihood_steps(denoise, images, denoiser.schedule, steps, probes, request.seed, len(images)), False)


def lossless(images: Tensor) -> dict[str, float]:
    """Bits per dimension of the images as PNG and as lossless WebP files, headers included: the mean over images."""
    sizes = {"PNG": 0, "WebP": 0}
    for image in images.numpy():
        shown, out = picture(image), io.BytesIO()
        shown.save(out, "WEBP", lossless=True, quality=100, method=6, exact=True)
        sizes["WebP"] += len(out.getvalue())
        sizes["PNG"] += len(render.encode(shown, "png"))
    return {k: 8 * v / images.numel() for k, v in sizes.items()}


def caption(state: State, image: int, dims: int) -> str:
    """One line with the time, bits and error of one image's state; dims: C*H*W."""
    rmse = 127.5 * float(state.mse[image]) ** 0.5
    bits = float(state.bits[image])
    return f"t {state.t}  {bits:,.0f} bits  {bits / dims:.3f} bits/dim  rmse {rmse:.1f}"
