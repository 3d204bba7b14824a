"""A study of training recipes: each line trains for the same wall-clock time and is measured in the same way.

The lines change one factor at a time around one default recipe, and combine every prediction type with every schedule. A trained line
makes n samples (dpmpp-2m), which a classifier trained on the same real images measures: the Frechet distance of its features
(FD-classifier, not an FID) and the share of samples whose predicted class is the requested one.
"""

from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open

from ddpm_app.checkpoints import checkpoint
from ddpm_app.classifiers.classifier import Classifier
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import cfg, clipped
from ddpm_app.diffusion.samplers import SAMPLERS, last, start
from ddpm_app.diffusion.schedules import make_schedule, sigma_grid
from ddpm_app.evaluation.agreement import agreement_figures, split_test_images
from ddpm_app.evaluation.distances import Stats, statistics
from ddpm_app.files import read_json
from ddpm_app.images.datasets import load_data
from ddpm_app.images.pixels import to_uint8
from ddpm_app.networks.device import describe, for_inference, pick_dtype
from ddpm_app.networks.unet import UNet
from ddpm_app.training import runs
from ddpm_app.training.config import TrainConfig

EMAS = (0.02, 0.05, 0.1, 0.2)  # EMA lengths; every run keeps all of them, so that their lines need no further training
EXTRA = ("--validations", "4", "--snapshots", "1")


@dataclass(frozen=True)
class Study:
    """What all lines of a study share.

    default        the recipe that the lines differ from
    classifier     the network that measures the samples
    device         where samples are made and measured
    out            folder of the runs and results
    table          the Markdown file that gets the study's section
    command        the command's arguments, as the table shows them
    n              samples for each line
    evaluations    network evaluations for each sample
    guidance       guidance scale
    seeds          trainings of each recipe, with the seeds 0 to seeds - 1
    batch          samples made at once
    verbose        show what training prints
    """

    default: TrainConfig
    classifier: Classifier
    device: torch.device
    out: Path
    table: Path
    command: str = ""
    n: int = 1000
    evaluations: int = 18
    guidance: float = 1.0
    seeds: int = 1
    batch: int = 100
    verbose: bool = False

    @property
    def where(self) -> str:
        """Device, torch version and number format, for the table."""
        return f"{describe(self.device)} (torch {torch.__version__}, {str(pick_dtype(self.device)).removeprefix('torch.')})"


@dataclass(frozen=True)
class Line:
    """One line of the study: one training, measured with one of its averages. Lines of one recipe differ only in their seeds.

    name       unique in the study
    factor     what the line varies, in words
    changes    fields that differ from the default recipe
    ema        length of the average that is measured
    trained    name of the line whose training is measured
    seed       of the training
    recipe     name of the row in the table
    """

    name: str
    factor: str
    changes: dict
    ema: float
    trained: str
    seed: int = 0
    recipe: str = ""


def lines(default: TrainConfig) -> list[Line]:
    """The study around a default: thirteen runs, sixteen rows."""
    study_lines, base = [], f"{default.prediction_type}-{default.schedule}"

    def add(name: str, factor: str, **changes) -> None:
        study_lines.append(Line(name, factor, changes, default.ema, name))

    add(base, "default")
    for kind in ("eps", "v", "edm"):
        for schedule in ("linear", "cosine"):
            if (kind, schedule) != (default.prediction_type, default.schedule):
                add(f"{kind}-{schedule}", "prediction type x schedule", prediction_type=kind, schedule=schedule)
    for weight in ("uniform", "truncated-snr", "min-snr-5"):
        if weight != default.weight:
            add(weight, "loss weight", weight=weight)
    for ema in EMAS:
        if ema != default.ema:
            study_lines.append(Line(f"ema-{ema:g}", "EMA length", {"ema": ema}, ema, base))
    for factor in (0.5, 2):
        add(f"lr-{factor:g}", "learning rate", lr=float(f"{default.lr * factor:.3g}"))
    for factor in (0.5, 2):  # the rate goes with the root of the batch
        batch = max(int(default.batch * factor), 1)
        add(f"batch-{batch}", "batch, lr by its root", batch=batch, lr=float(f"{default.lr * math.sqrt(factor):.3g}"))
    best = {"weight": "min-snr-5", "lr": float(f"{default.lr * 2:.3g}")}
    add("min-snr-5-lr-2", "the two that help, together", **best)
    return study_lines


def repeated(study_lines: list[Line], seeds: int) -> list[Line]:
    """Each line once for each seed. The first seed comes first, so that an interrupted study has every recipe once."""
    again = [dataclasses.replace(line, recipe=line.name) for line in study_lines]
    for seed in range(1, seeds):
        named = {"seed": seed}
        again += [
            dataclasses.replace(line, name=_with(line.name, seed), trained=_with(line.trained, seed), recipe=line.name, **named)
            for line in study_lines
        ]
    return again


def _with(name: str, seed: int) -> str:
    return f"{name}-seed-{seed}"


def training_flags(study: Study, line: Line, out: Path) -> list[str]:
    """The arguments of train_unet.py for a line."""
    config = dataclasses.replace(study.default, seed=line.seed, **without_ema(line))
    return [*runs.flags(dataclasses.asdict(config), out), *EXTRA]


def trained(folder: Path) -> bool:
    """Whether the run in this folder has used its budget."""
    return read_json(folder / "end.json").get("status") == "finished"


def without_ema(line: Line) -> dict:
    """The changes that a training needs: every run keeps all averages."""
    return {k: v for k, v in line.changes.items() if k != "ema"}


def train_line(study: Study, line: Line, out: Path) -> None:
    """Train, or resume, to the end of the budget. Raises ValueError with the run's error, KeyboardInterrupt when stopped."""
    flags, before = training_flags(study, line, out), read_json(out / "config.json").get("training")
    if before and runs.flags(before, out) != flags[: -len(EXTRA)]:
        raise ValueError(f"{out} holds a run with other settings; delete it or give another --out")
    if before and trained(out):
        return
    command = [sys.executable, str(runs.SCRIPT), *flags, "--resume", "auto", "--now"]
    done = subprocess.run(command, stdout=None if study.verbose else subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = read_json(out / "end.json")
    if end.get("status") == "stopped":
        raise KeyboardInterrupt
    if done.returncode or end.get("status") != "finished":
        raise ValueError(end.get("message") or (done.stderr.strip().splitlines() or ["the process died without a message"])[-1])


def denoiser_of(folder: Path, ema: float, device: torch.device) -> Denoiser:
    """The network of a finished run with one of its averages."""
    config = checkpoint.open_checkpoint(folder).config
    network = UNet(config.network)
    with safe_open(folder / "state.safetensors", "pt") as state, torch.no_grad():
        kind = "ema" if ema == config.training["ema"] else f"ema-{ema:g}"
        for k, p in enumerate(network.parameters()):
            p.copy_(state.get_tensor(f"{kind}.{k}"))
    return Denoiser(for_inference(network, device), make_schedule(**config.schedule), config.prediction_type)


def sample(denoiser: Denoiser, labels: torch.Tensor, study: Study) -> torch.Tensor:
    """uint8 (N, C, H, W), image i of its class from seed i."""
    shape, sampler, parts = denoiser.network.config.image_shape, SAMPLERS["dpmpp-2m"], []
    sigmas = sigma_grid(denoiser.schedule, sampler.steps_for(study.evaluations), sampler.grid)
    with torch.inference_mode():
        for at in range(0, len(labels), study.batch):
            label = labels[at : at + study.batch].to(denoiser.device)
            x, noise = start(range(at, at + len(label)), (len(label), *shape), sigmas, denoiser.device)
            parts.append(to_uint8(last(sampler.steps(clipped(cfg(denoiser, label, study.guidance)), x, sigmas, noise))).cpu())
    return torch.cat(parts)


def protocol(study: Study, line: Line) -> dict:
    """The settings that a stored result must have to belong to this study."""
    d = dataclasses.asdict(study.default) | {"seed": line.seed}
    settings = {k: d[k] for k in ("data", "preset", "minutes", "batch", "lr", "prediction_type", "schedule", "weight", "ema", "seed")}
    fixed = {"n": study.n, "evaluations": study.evaluations, "guidance": study.guidance, "classifier": study.classifier.digest}
    return settings | fixed | {"machine": describe(study.device)}


def measure_line(study: Study, line: Line, reference: Stats) -> dict:
    """Samples of a trained line and their figures."""
    folder = study.out / line.trained
    config = checkpoint.open_checkpoint(folder).config
    labels = torch.arange(len(config.classes)).repeat_interleave(study.n // len(config.classes))
    images = sample(denoiser_of(folder, line.ema, study.device), labels, study)
    figures = agreement_figures(study.classifier, images, labels, reference)
    log = [r for r in checkpoint.open_checkpoint(folder).log() if "validation_loss" in r]
    return {
        "name": line.name,
        "recipe": line.recipe,
        "factor": line.factor,
        "changes": line.changes,
        "fd": figures["FD-classifier"],
        "agreement": figures["agreement"],
        "interval95": figures["interval95"],
        "images": config.images_seen,
        "validation_loss": log[-1]["validation_loss"] if log else None,
        "command": runs.shown(training_flags(study, line, folder)) if line.trained == line.name else f"of {line.trained}",
        "protocol": protocol(study, line),
    }


def real_figures(study: Study) -> tuple[Stats, dict]:
    """(feature statistics of real test images, the figures of at most n other real test images)."""
    pictures, others = split_test_images(load_data(study.default.data, "test"), study.n // len(study.classifier.config.classes), 5000)
    reference = statistics(study.classifier.features(pictures))
    figures = agreement_figures(study.classifier, others.images, others.labels, reference)
    return reference, {"fd": figures["FD-classifier"], "agreement": figures["agreement"], "n": len(others.images)}
