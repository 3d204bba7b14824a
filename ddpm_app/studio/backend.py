"""Which library computes a model: PyTorch, or OpenVINO in int8 on processors without bf16.

int8.json beside a model's weights, or under their hash in the cache, holds the ranges of the int8 layers' inputs and how far int8 is
from float32: `quantise` measures both. A model whose int8 is too far off is computed by PyTorch in float32.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.checkpoints.weights import digest_of_weights
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import cfg, clipped, conditioned
from ddpm_app.diffusion.samplers import SAMPLERS, last
from ddpm_app.diffusion.samplers import start as start_sampling
from ddpm_app.diffusion.schedules import add_noise, sigma_grid
from ddpm_app.files import read_json, write_atomically
from ddpm_app.flags import check_choice
from ddpm_app.networks import openvino
from ddpm_app.networks.openvino import OpenVINONetwork, Ranges
from ddpm_app.paths import PROJECT, cache_dir
from ddpm_app.studio.request import Request

BACKENDS = ("auto", "torch", "openvino")
HELP = "what computes the network: torch, openvino, or auto, which is openvino in int8 where that is installed and nothing has bf16"
FILE = "int8.json"
FORMAT = 1
LEVELS = 20  # noise levels at which int8 is compared with float32
SEEDS = 64  # images compared from noise to the end
MOST_GREY_LEVELS = 2.0  # root mean square difference of the predicted x0, at the worst noise level
LEAST_PSNR = 35.0  # dB, over the finished images
QUIET_SECONDS = 300  # a model whose weights are newer may still be training, and is not converted in the background

log = logging.getLogger("ddpm_app")
_conversions: dict[str, subprocess.Popen] = {}


def pick_backend(name: str, device: torch.device, dtype: torch.dtype, precision: str) -> str:
    """ "torch" or "openvino". "auto" is openvino where int8 is accepted (precision "auto"), the processor has no bf16 and it is installed.

    Raises ValueError for "openvino" where it cannot be used."""
    check_choice("backend", name, BACKENDS)
    if name == "openvino":
        if not openvino.installed():
            raise ValueError("the backend openvino is not installed; pip install -r requirements-fast.txt installs it")
        if device.type != "cpu":
            raise ValueError(f"the backend openvino computes on the CPU, and the device is {device}; --device cpu is accepted with it")
        if dtype != torch.float32:
            raise ValueError("the backend openvino computes in int8 or float32, not in bf16; --precision fp32 is accepted with it")
    fits = device.type == "cpu" and dtype == torch.float32 and precision == "auto" and openvino.installed()
    return "openvino" if name == "openvino" or name == "auto" and fits else "torch"


class Backend:
    """The backend of a Studio: what computes the networks that sample.

    name:    "torch" or "openvino"
    convert: measure the int8 of a model in the background when it is first used and its int8 is unknown

    With the choice "auto" OpenVINO computes only models whose int8 was accepted; with "openvino" others, too, in float32."""

    def __init__(self, choice: str, device: torch.device, dtype: torch.dtype, precision: str, convert: bool = False):
        self.name = pick_backend(choice, device, dtype, precision)
        self.convert = convert
        self._float32, self._int8 = choice == "openvino", precision == "auto"
        self._known: dict[str, tuple[Denoiser, Denoiser]] = {}  # by the model's path: the denoiser in PyTorch, and the one that samples
        self._lock = threading.Lock()

    def sampling(self, checkpoint: Checkpoint, denoiser: Denoiser) -> Denoiser:
        """The denoiser that samples, for a model and its denoiser in PyTorch. It stays the same until `prepare` or `forget`."""
        if self.name == "torch":
            return denoiser
        with self._lock:
            known = self._known.get(str(checkpoint.path))
            if known is None or known[0] is not denoiser:
                content = stored(checkpoint) if self._int8 else {}
                if self._int8 and self.convert and not content:
                    convert_in_background(checkpoint)
                ranges = ranges_of(checkpoint, content, denoiser)
                fast = denoiser
                if ranges is not None or self._float32:
                    fast = dataclasses.replace(denoiser, network=OpenVINONetwork(denoiser.network, ranges))
                known = self._known[str(checkpoint.path)] = denoiser, fast
            return known[1]

    def prepare(self, checkpoint: Checkpoint, denoiser: Denoiser, n: int) -> None:
        """Choose anew for a model that PyTorch computed, because its int8 may be known by now; compile it for n images with guidance."""
        known = self._known.get(str(checkpoint.path))
        if known and known[0] is known[1]:
            self.forget(str(checkpoint.path))
        network = self.sampling(checkpoint, denoiser).network
        if isinstance(network, OpenVINONetwork):
            for _, size in openvino.parts_of(2 * n if network.config.num_classes else n):
                network.compile(size)

    def forget(self, path: str) -> None:
        self._known.pop(path, None)

    def describe(self, checkpoint: Checkpoint | None) -> str:
        """ "OpenVINO int8" or "OpenVINO float32"; "" where PyTorch computes the model."""
        if self.name == "torch" or checkpoint is None:
            return ""
        int8 = self._int8 and accepted(stored(checkpoint))
        return "OpenVINO int8" if int8 else "OpenVINO float32" if self._float32 else ""


# -- int8.json ------------------------------------------------------------------------------------------------------------


def cached_file(checkpoint: Checkpoint) -> Path:
    return cache_dir("int8") / f"{digest_of_weights(checkpoint.path)[:32]}.json"


def stored(checkpoint: Checkpoint) -> dict:
    """What is known of a model in int8: the content of its int8.json, or of the file in the cache; {} if nothing is."""
    digest = digest_of_weights(checkpoint.path)
    for file in (checkpoint.path / FILE, cached_file(checkpoint)):
        content = read_json(file)
        if content.get("format") == FORMAT and content.get("weights") == digest:
            return content
    return {}


def accepted(content: dict) -> bool:
    """Whether int8 was close enough to float32 to be used."""
    return bool(content) and not content.get("refused", "?")


def ranges_of(checkpoint: Checkpoint, content: dict, denoiser: Denoiser) -> Ranges | None:
    """The ranges of the int8 layers in what `stored` gave; None where int8 is unknown or was refused."""
    if not accepted(content):
        if content:
            log.warning("%s: int8 is not used, %s; float32 is", checkpoint.name, content.get("refused"))
        return None
    try:
        return openvino.check_ranges(content.get("ranges"), denoiser.network)
    except ValueError as error:
        log.warning("%s: int8 is not used, %s; float32 is", checkpoint.path / FILE, error)
        return None


def convert_in_background(checkpoint: Checkpoint) -> None:
    """Start train/quantise.py for a model whose int8 is unknown, at low priority on one thread. At most one such process runs at once."""
    digest = digest_of_weights(checkpoint.path)
    files = [f.stat().st_mtime for f in checkpoint.path.glob("weights*.safetensors")]
    busy = any(process.poll() is None for process in _conversions.values())
    if busy or digest in _conversions or not files or time.time() - max(files) < QUIET_SECONDS:
        return
    command = [sys.executable, str(PROJECT / "train" / "quantise.py"), str(checkpoint.path), "--cache"]
    command = ["nice", "-n", "15", *command] if shutil.which("nice") else command
    log.info("%s: measuring int8 in the background", checkpoint.name)
    silent = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    _conversions[digest] = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, **silent)


# -- measuring ------------------------------------------------------------------------------------------------------------


def quantise(checkpoint: Checkpoint, request: Request, report: Callable[[str], None] = lambda line: None, seeds: int = SEEDS) -> dict:
    """Measure the ranges on the model's own noised images, and compare int8 with float32. Returns the content of int8.json.

    request: its sampler, evaluations, grid and guidance make the images. report: called with a line of text after each part."""
    denoiser = checkpoint.denoiser("cpu", torch.float32)
    with torch.inference_mode():
        images = _sampled(denoiser, request, seeds)
        report(f"{seeds} images of {request.evaluations} evaluations in float32")
        with openvino.observed_ranges(denoiser.network) as ranges:
            expected = [denoiser(*inputs) for inputs in _noised(denoiser, images, seed=1)]
        content = {"format": FORMAT, "weights": digest_of_weights(checkpoint.path), "refused": "", "ranges": ranges}
        int8 = Denoiser(OpenVINONetwork(denoiser.network, ranges), denoiser.schedule, denoiser.prediction_type)
        expected = [denoiser(*inputs) for inputs in _noised(denoiser, images, seed=2)]
        levels = [_grey_levels(a, int8(*inputs)) for a, inputs in zip(expected, _noised(denoiser, images, seed=2))]
        report(f"predicted x0 at {LEVELS} noise levels: {max(levels):.2f} grey levels from float32 at most")
        error = _grey_levels(images, _sampled(int8, request, seeds)) if not int8.network.failed else float("inf")
        psnr = 20 * torch.log10(torch.tensor(255 / max(error, 1e-6))).item()
        report(f"finished images: {psnr:.1f} dB")
    if int8.network.failed:
        content["refused"] = "it gave infinities or NaN"
    elif max(levels) > MOST_GREY_LEVELS:
        content["refused"] = f"its predicted x0 is {max(levels):.2f} grey levels from float32's, where {MOST_GREY_LEVELS:g} are accepted"
    elif psnr < LEAST_PSNR:
        content["refused"] = f"its images are {psnr:.1f} dB from float32's, where {LEAST_PSNR:g} are accepted"
    how = {"sampler": request.sampler, "evaluations": request.true_evaluations, "guidance": request.guidance, "seeds": seeds}
    content["measured"] = {"grey levels of x0": [round(v, 3) for v in levels], "psnr": round(psnr, 2)} | how
    return content


def write(checkpoint: Checkpoint, content: dict, file: Path) -> None:
    if digest_of_weights(checkpoint.path) != content["weights"]:
        raise ValueError(f"{checkpoint.path}: its weights changed meanwhile; try again when its training has ended")
    write_atomically(file, json.dumps(content, indent=1))


def _labels(denoiser: Denoiser, n: int) -> Tensor | None:
    classes = denoiser.network.config.num_classes
    return torch.arange(n) % classes if classes else None


def _sampled(denoiser: Denoiser, request: Request, n: int) -> Tensor:
    """(n, C, H, W) in [-1, 1]: image i has seed i and class i mod K."""
    sampler, label = SAMPLERS[request.sampler], _labels(denoiser, n)
    sigmas = sigma_grid(denoiser.schedule, request.steps, sampler.grid if request.grid == "auto" else request.grid)
    x, noise = start_sampling(range(n), (n, *denoiser.network.config.image_shape), sigmas, torch.device("cpu"))
    plain = conditioned(denoiser, label) if label is None or request.guidance == 1 else cfg(denoiser, label, request.guidance)
    return last(sampler.steps(clipped(plain), x, sigmas, noise)).clamp(-1, 1)


def _noised(denoiser: Denoiser, images: Tensor, seed: int) -> list[tuple[Tensor, Tensor, Tensor | None]]:
    """(x, sigma, label) at LEVELS times from the first to the last: 16 images, half of them with their class and half without one."""
    schedule, label, inputs = denoiser.schedule, _labels(denoiser, len(images)), []
    for k, t in enumerate(torch.linspace(0, len(schedule.sigma) - 1, LEVELS).long().tolist()):
        chosen = (torch.arange(16) + 16 * k + 7 * seed) % len(images)
        sigma = schedule.sigma[t]
        noise = torch.randn(images[chosen].shape, generator=torch.Generator().manual_seed(1000 * seed + k))
        of = None if label is None else torch.where(torch.arange(16) % 2 == 0, label[chosen], denoiser.network.config.num_classes)
        inputs.append((add_noise(images[chosen], sigma, noise), sigma, of))
    return inputs


def _grey_levels(a: Tensor, b: Tensor) -> float:
    """Root mean square difference of images of [-1, 1] in grey levels of 0..255; infinite where a value is not finite."""
    difference = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean().sqrt()
    return 127.5 * float(difference) if difference.isfinite() else float("inf")
