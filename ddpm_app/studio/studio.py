"""Sampling: takes a Request, gives an iterator of Frames in numpy. The page, the CLI and the API produce identical pixels."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections import OrderedDict
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ddpm_app.checkpoints import checkpoint as checkpoints
from ddpm_app.checkpoints import description
from ddpm_app.checkpoints.checkpoint import Checkpoint, CheckpointConfig
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import cfg, clipped, conditioned
from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.diffusion.samplers import start as start_sampling
from ddpm_app.diffusion.schedules import sigma_grid, to_vp
from ddpm_app.flags import check_choice
from ddpm_app.images.pixels import to_model, to_uint8
from ddpm_app.networks.device import describe, pick_device, pick_dtype
from ddpm_app.paths import model_roots
from ddpm_app.studio.backend import Backend
from ddpm_app.studio.presets import preset_fields
from ddpm_app.studio.request import Request, defaults_for, settled
from ddpm_app.studio.steering import Steering

MAX_BATCH = 64  # images denoised at once; larger requests are split into such batches
MAX_RESULT_BYTES = 2**31  # limit for the finished pixels of one request


@dataclass(frozen=True)
class Frame:
    """The state after one step of the sampler.

    i, n:              step i of n; 0 is the initial noise
    nfe, evaluations:  network evaluations so far, and in all
    t, sigma, log_snr: the noise level of x
    x:                 x_t of the variance-preserving process, uint8 (N, C, H, W)
    x0:                the x0 predicted at the level before, uint8 (N, C, H, W)
    labels:            (N,) int64, -1 is none
    """

    i: int
    n: int
    nfe: int
    evaluations: int
    t: float
    sigma: float
    log_snr: float
    x: np.ndarray
    x0: np.ndarray
    labels: np.ndarray

    @property
    def done(self) -> bool:
        return self.i == self.n


class Ranked(NamedTuple):
    """Images, and the candidate that each one was chosen from.

    images: (n, H, W, C) uint8
    labels: (n,) int64, -1 is none
    chosen: (n,) index of the candidate kept as image i; its seed is seed + chosen[i]
    scores: (candidates, n) score of every candidate, NaN without re-ranking
    """

    images: np.ndarray
    labels: np.ndarray
    chosen: np.ndarray
    scores: np.ndarray


class Studio:
    """Loads checkpoints, keeps the last `keep` used ones in memory, and runs one network at a time.

    roots:    directories in which checkpoints are looked for (default: checkpoints/ and runs/)
    backend:  auto, torch, openvino: what samples, see studio/backend.py; "auto" is openvino only for models whose int8 is known
    convert:  measure the int8 of other models in the background when they are first used
    """

    def __init__(
        self,
        roots: list[Path] | None = None,
        device: str = "auto",
        precision: str = "auto",
        keep: int = 3,
        backend: str = "auto",
        convert: bool = False,
    ):
        self.roots = roots if roots is not None else model_roots()
        self.device = pick_device(device)
        self.dtype = pick_dtype(self.device, precision)
        self.backend = Backend(backend, self.device, self.dtype, precision, convert)
        self.steering = Steering(self.roots, self.device)
        self._extra: dict[str, Checkpoint] = {}
        self._loaded: OrderedDict[str, tuple[float, Denoiser]] = OrderedDict()
        self._keep = keep
        self._loading, self._working = threading.Lock(), threading.Lock()

    # -- checkpoints ------------------------------------------------------------------------------------------------

    def checkpoints(self) -> dict[str, Checkpoint]:
        """All checkpoints by name: those under the roots and those loaded with add()."""
        return {**checkpoints.find(self.roots), **self._extra}

    def unreadable(self) -> dict[str, str]:
        """Directories that look like checkpoints but cannot be used, and why."""
        refused: dict[str, str] = {}
        checkpoints.find(self.roots, refused)
        return refused

    def checkpoint(self, name: str) -> Checkpoint:
        """The checkpoint of this name or in this directory. Raises ValueError, with the nearest name, if there is none."""
        known = self.checkpoints()
        if name not in known and (Path(name) / "config.json").is_file():
            return checkpoints.open_checkpoint(Path(name))
        if not known:
            raise ValueError(f"there is no checkpoint in {' or '.join(str(r) for r in self.roots)}")
        return known[check_choice("checkpoint", name, known)]

    def address(self, name: str) -> str:
        """A name that another process accepts: the checkpoint's name if it lies under the roots, its path if it was loaded with add()."""
        return str(self._extra[name].path) if name in self._extra and name not in checkpoints.find(self.roots) else name

    def default(self) -> str:
        """The checkpoint shown first: the first CIFAR-10 model, else the first of all; "" without any."""
        names = list(self.checkpoints())
        return next((n for n in names if n.startswith("cifar10")), names[0] if names else "")

    def add(self, source: str) -> Checkpoint:
        """Add a checkpoint from a directory or a Hugging Face repo id. Reads its weights once; raises ValueError if that fails."""
        source = source.strip()
        if not source:
            raise ValueError("give a folder with config.json and weights.safetensors, or a Hugging Face repo id such as user/model")
        try:
            is_path = Path(source).expanduser().exists()
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(f"{source[:60]!r} cannot be a folder's name or a repo id") from error
        looks_like_path = is_path or source.startswith((".", "/", "~")) or Path(source).suffix in description.PICKLES
        if looks_like_path:
            path = Path(source).expanduser().resolve()
        else:
            from ddpm_app.checkpoints import hub  # imported only here: this package needs network access

            path = hub.fetch(source)
        checkpoint = checkpoints.open_checkpoint(path)
        checkpoint.denoiser("cpu", torch.float32)
        self._extra[checkpoint.name] = checkpoint
        return checkpoint

    def denoiser(self, checkpoint: Checkpoint) -> Denoiser:
        """The network on the device, from memory if it is there and its config.json has not changed since."""
        key, stamp = str(checkpoint.path), (checkpoint.path / "config.json").stat().st_mtime
        with self._loading:
            if key in self._loaded and self._loaded[key][0] == stamp:
                self._loaded.move_to_end(key)
                return self._loaded[key][1]
            denoiser = checkpoint.denoiser(self.device, self.dtype)
            self._loaded[key] = (stamp, denoiser)
            while len(self._loaded) > self._keep:
                self.backend.forget(self._loaded.popitem(last=False)[0])
            return denoiser

    def sampling_denoiser(self, checkpoint: Checkpoint) -> Denoiser:
        """The denoiser that samples: that of `denoiser`, or one of OpenVINO. See studio/backend.py."""
        return self.backend.sampling(checkpoint, self.denoiser(checkpoint))

    def prepare(self, name: str, n: int = 16) -> None:
        """Load a model and compile it for requests of n images, where the backend compiles."""
        if self.backend.name != "torch" and name in (known := self.checkpoints()):
            self.backend.prepare(known[name], self.denoiser(known[name]), n)

    def describe(self, name: str = "") -> str:
        """The device, and the backend where it is not PyTorch: "CPU, 2 threads, OpenVINO int8"."""
        return ", ".join(filter(None, (describe(self.device), self.backend.describe(self.checkpoints().get(name)))))

    def preset(self, preset: str, checkpoint: str = "") -> dict:
        """Fields of a Request: a preset of studio/presets.py for a model, "" for the default one."""
        name = checkpoint or self.default()
        return preset_fields(preset, name, self.checkpoint(name).config, self.checkpoints())

    def request(self, checkpoint: str = "", **fields) -> Request:
        """A Request with these fields and the model's own defaults for the others. checkpoint: "" is the default model."""
        name = checkpoint or self.default()
        config = self.checkpoint(name).config
        return settled(Request(name, **{**defaults_for(config), **fields}), config)

    # -- sampling ---------------------------------------------------------------------------------------------------

    def labels(self, request: Request, classes: tuple[str, ...]) -> np.ndarray:
        """(n,) int64: the class of each image; -1 for none."""
        k, label = len(classes), request.label
        if not k or label == "none":
            if label not in ("any", "none", "all"):
                raise ValueError(
                    f"this checkpoint has no classes, so class {label!r} is not accepted; a classifier scale above 0 guides it toward one"
                )
            return np.full(request.n, -1, np.int64)
        index = np.arange(request.n, dtype=np.int64)
        if label == "all":
            return index % k
        if label == "any":  # drawn from the image's seed, in another random stream than its noise
            return np.array([np.random.default_rng([request.seed + int(i), 7]).integers(k) for i in index], np.int64)
        if label in classes:
            return np.full(request.n, classes.index(label), np.int64)
        if label.isdecimal() and int(label) < k:
            return np.full(request.n, int(label), np.int64)
        check_choice("class", label, ["any", "all", "none", *classes])
        raise ValueError(f"class {label} is out of range; this checkpoint has {k} classes")

    def class_index(self, config: CheckpointConfig, label: str) -> int:
        """The index of a class name, -1 for "none". Raises ValueError for a class that the model does not have."""
        if label in ("any", "all"):
            raise ValueError(f"the class is {label!r}; one class or none is accepted here")
        return int(self.labels(Request(label=label, n=1), config.classes if config.network.num_classes else ())[0])

    def sample(
        self,
        request: Request,
        picture: np.ndarray | None = None,
        start: float | None = None,
        labels: np.ndarray | None = None,
        most: int = MAX_BATCH,
    ) -> Iterator[Frame]:
        """Denoise n <= most images, or all their candidates. Yields the initial noise and the state after each step.

        picture, start: SDEdit (Meng et al. 2022): begin at sigma `start` from this image, uint8 (C, H, W), with each seed's noise.
        labels: (n,) int64 instead of request.label (-1: none), for one batch of a larger request.
        Closing the iterator stops the sampling.
        """
        if (total := request.n * request.candidates) > most:
            what = f"n is {total}" if request.candidates == 1 else f"{request.n} images of {request.candidates} candidates are {total}"
            raise ValueError(f"{what}; at most {most} images are shown at once (the command line takes more)")
        checkpoint = self.checkpoint(request.checkpoint)
        config = checkpoint.config
        if labels is None:
            labels = self._labels(request, config)
        self.steering.check(request, config)
        request = request.unranked()
        shape = (request.n, *config.network.image_shape)
        if picture is not None and picture.shape != shape[1:]:
            raise ValueError(f"the picture is {picture.shape}; this checkpoint takes {shape[1:]}")
        denoiser = self.sampling_denoiser(checkpoint)
        sampler = SAMPLERS[request.sampler]
        grid = sampler.grid if request.grid == "auto" else request.grid
        sigmas = sigma_grid(denoiser.schedule, request.steps, grid, start)
        x0 = None if picture is None else to_model(torch.from_numpy(picture.copy())).to(self.device)
        seeds = range(request.seed, request.seed + request.n)
        x, noise = start_sampling(seeds, shape, sigmas, self.device, x0=x0)
        steps = sampler.steps(self._guided(denoiser, request, config, labels), x, sigmas, noise, **request.options())
        yield self._frame(denoiser, request, 0, 0, sigmas[0], x, torch.zeros_like(x), labels)
        for step in self.exclusively(steps):
            yield self._frame(denoiser, request, step.i + 1, step.nfe, step.sigma_next, step.x, step.x0, labels)

    def exclusively(self, steps: Generator, inference: bool = True) -> Generator:
        """The values of a generator, each computed while no other network of this Studio runs; returns the generator's return value."""
        while True:
            with self._working, torch.inference_mode(inference):
                try:
                    step = next(steps)
                except StopIteration as end:
                    return end.value
            yield step

    def _labels(self, request: Request, config: CheckpointConfig) -> np.ndarray:
        """(n * candidates,) int64: the classes of the n images, repeated for each set of candidates."""
        return np.tile(self.labels(request, self.steering.classes(request, config)), request.candidates)

    def _guided(self, denoiser: Denoiser, request: Request, config: CheckpointConfig, labels: np.ndarray):
        label = None if labels[0] < 0 or not config.network.num_classes else torch.from_numpy(labels).to(self.device)
        if label is None or config.tuned_for:  # a tuned model contains its guidance: never a second pass
            plain = conditioned(denoiser, label)
        else:
            plain = cfg(denoiser, label, request.guidance, (request.interval_low, request.interval_high), request.rescale)
        return clipped(self.steering.guided(plain, request, config, labels))

    def _frame(self, denoiser: Denoiser, request: Request, i: int, nfe: int, sigma: Tensor, x: Tensor, x0: Tensor, labels) -> Frame:
        level = float(sigma)
        if not level and not x.isfinite().all():
            raise ValueError(f"{request.checkpoint} gives infinities or NaN instead of images")
        t = float(denoiser.schedule.sigma_to_t(sigma)) + 1 if level else 0.0  # papers count t from 1; 0 is the clean image
        log_snr = -2 * math.log(level) if level else math.inf
        shown = [to_uint8(v).cpu().numpy() for v in (to_vp(x, sigma), x0)]
        return Frame(i, request.steps, nfe, request.true_evaluations, t, level, log_snr, *shown, labels)

    def images(self, request: Request, progress=None) -> tuple[np.ndarray, np.ndarray]:
        """All n images, uint8 (n, H, W, C), and labels, int64 (n,). progress(done, n) is called after each batch."""
        samples = self.ranked(request, progress)
        return samples.images, samples.labels

    def ranked(self, request: Request, progress=None) -> Ranked:
        """The images, their scores and which candidate each one was. progress(done, n) counts candidates."""
        config = self.checkpoint(request.checkpoint).config
        c, h, w = config.network.image_shape
        size = c * h * w
        if request.n * size > MAX_RESULT_BYTES:
            raise ValueError(f"n is {request.n}; {MAX_RESULT_BYTES // size} images fit the memory limit of {MAX_RESULT_BYTES >> 30} GiB")
        labels, candidates, n = self._labels(request, config), request.unranked(), request.n
        self.steering.check(request, config)
        images = np.empty((n, h, w, c), np.uint8)
        scores, chosen = np.full((request.candidates, n), np.nan), np.arange(n)
        best = np.full(n, -np.inf)
        for at in range(0, candidates.n, MAX_BATCH):
            part = dataclasses.replace(candidates, n=min(MAX_BATCH, candidates.n - at), seed=request.seed + at)
            part_labels = labels[at : at + part.n]
            for frame in self.sample(part, labels=part_labels):
                if frame.done:
                    index = np.arange(at, at + part.n)
                    if request.candidates > 1:
                        scores.flat[index] = self.steering.scores(request, config, frame.x, part_labels)
                    for j, image in zip(index, frame.x):
                        if request.candidates == 1 or scores.flat[j] > best[j % n]:
                            best[j % n], chosen[j % n], images[j % n] = scores.flat[j], j, image.transpose(1, 2, 0)
            if progress:
                progress(at + part.n, candidates.n)
        return Ranked(images, labels[:n], chosen, scores)

    def compare(self, first: Request, second: Request) -> Iterator[tuple[Frame, Frame]]:
        """Sample two requests together. Yields pairs of frames with nearly the same share of steps done, at last both final frames."""
        runs = [self.sample(first), self.sample(second)]
        frames = [next(run) for run in runs]
        try:
            yield frames[0], frames[1]
            while not all(f.done for f in frames):
                k = min((0, 1), key=lambda j: (frames[j].done, frames[j].i / frames[j].n))  # the one that is behind
                ahead = frames[k].i + 1, frames[k].n
                frames[k] = next(runs[k])
                other = 1 - k
                if not frames[other].done and (frames[other].i + 1) / frames[other].n <= ahead[0] / ahead[1]:
                    frames[other] = next(runs[other])
                yield frames[0], frames[1]
        finally:
            for run in runs:
                run.close()
