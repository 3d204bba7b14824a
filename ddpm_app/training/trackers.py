"""What a run logs besides its log.jsonl, without code: TensorBoard always, Weights & Biases and trackio when asked for.

A tracker that breaks is left out, with a sentence; the run goes on.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

PROJECT = "ddpm-studio"


def check(names: str) -> list[str]:
    """ "wandb,trackio" -> the names. Raises ValueError, one sentence, for an unknown tracker or one that is not installed."""
    asked = [name.strip() for name in names.split(",") if name.strip()]
    for name in asked:
        if name not in KINDS:
            raise ValueError(f"--track: unknown tracker {name[:40]!r}; {', '.join(k for k in KINDS if k != 'tensorboard')} are accepted")
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise ValueError(f"--track: {name} is not installed: pip install {name}")
    return list(dict.fromkeys(asked))


def scalars(row: dict) -> dict[str, float]:
    """A row of log.jsonl as named curves."""
    names = {"loss": "train/loss", "validation_loss": "validation/loss", "lr": "train/lr", "grad_norm": "train/grad_norm"}
    names |= {
        "images_per_s": "speed/images_per_s",
        "images": "progress/images",
        "progress": "progress/budget",
        "memory_mb": "speed/memory_mb",
    }
    found = {names[k]: row[k] for k in names if row.get(k) is not None}
    found |= {f"loss_by_level/{k}": v for k, v in enumerate(row.get("loss_by_level", ())) if v is not None}
    return {k: float(v) for k, v in found.items() if math.isfinite(v)}


class TensorBoard:
    """Event files in the run's folder; curves of steps that are run again after a resume are taken back."""

    def __init__(self, folder: Path, config: dict, step: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)
        if not step:
            self.writer.add_text("settings", "\n".join(f"    {k}: {v}" for k, v in config.items()))

    def log(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def picture(self, picture, step: int) -> None:
        import numpy as np

        self.writer.add_image("samples", np.asarray(picture), step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class Wandb:
    """A run of the same name and a fixed id, so that a resumed run goes on with its curves; WANDB_MODE=offline stays here."""

    def __init__(self, folder: Path, config: dict, step: int):
        import wandb

        self.module = wandb
        identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        where = dict(project=PROJECT, name=folder.name, dir=str(folder))
        self.run = wandb.init(**where, id=identity, resume="allow" if step else None, config=config)

    def log(self, values: dict[str, float], step: int) -> None:
        self.run.log(values, step=step)

    def picture(self, picture, step: int) -> None:
        self.run.log({"samples": self.module.Image(picture)}, step=step)

    def close(self) -> None:
        self.run.finish()


class Trackio:
    """trackio keeps its data in a local database of its own (`trackio show`)."""

    def __init__(self, folder: Path, config: dict, step: int):
        import trackio

        self.module = trackio
        trackio.init(project=PROJECT, name=folder.name, config=config, resume="allow")

    def log(self, values: dict[str, float], step: int) -> None:
        self.module.log(values, step=step)

    def picture(self, picture, step: int) -> None:
        self.module.log({"samples": self.module.Image(picture)}, step=step)

    def close(self) -> None:
        self.module.finish()


KINDS = {"tensorboard": TensorBoard, "wandb": Wandb, "trackio": Trackio}


class Trackers:
    """Those of one run. names: as for check(). folder: the run's. step: where it goes on. tell: for sentences. on: False, none.

    Raises ValueError when one that was asked for cannot begin."""

    def __init__(self, names: str, folder: Path, config: dict, step: int = 0, tell: Callable[[str], None] = print, on: bool = True):
        self.tell, self.kept = tell, {}
        asked = check(names) if on else []
        for name in dict.fromkeys(["tensorboard", *asked] if on else []):
            try:
                self.kept[name] = KINDS[name](folder, config, step)
            except Exception as error:
                says = " ".join(str(error).split())[:200]
                if name in asked:
                    self.close()
                    raise ValueError(f"--track: {name} could not begin ({says})") from error
                tell(f"no TensorBoard files: {says}")

    def _each(self, what: str, *args) -> None:
        for name, tracker in list(self.kept.items()):
            try:
                getattr(tracker, what)(*args)
            except Exception as error:  # a full disk, a lost connection: no reason to lose hours of training
                del self.kept[name]
                self.tell(f"{name} fell out ({' '.join(str(error).split())[:200]}); training goes on without it")

    def log(self, row: dict) -> None:
        """A row of log.jsonl."""
        self._each("log", scalars(row), row["step"])

    def picture(self, picture, step: int) -> None:
        """A PIL image, the newest sample grid."""
        self._each("picture", picture, step)

    def close(self) -> None:
        self._each("close")

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *_) -> None:
        self.close()
