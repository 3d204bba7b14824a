"""What a run logs besides log.jsonl: TensorBoard always, Weights & Biases and trackio on request.

A tracker that fails is dropped with a message; the run continues.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Callable
from pathlib import Path

from ddpm_app.flags import check_choice

PROJECT = "ddpm-studio"


def check(names: str) -> list[str]:
    """ "wandb,trackio" -> the names. Raises ValueError for a tracker that is unknown or not installed."""
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    for name in chosen:
        check_choice("tracker", name, KINDS)
        if name != "tensorboard" and importlib.util.find_spec(name) is None:
            raise ValueError(f"--track: {name} is not installed: pip install {name}")
    return list(dict.fromkeys(chosen))


def scalars(row: dict) -> dict[str, float]:
    """A row of log.jsonl as named curves."""
    names = {"loss": "train/loss", "validation_loss": "validation/loss", "lr": "train/lr", "grad_norm": "train/grad_norm"}
    names |= {
        "images_per_s": "speed/images_per_s",
        "images": "progress/images",
        "progress": "progress/budget",
        "memory_mb": "speed/memory_mb",
    }
    values = {names[k]: row[k] for k in names if row.get(k) is not None}
    values |= {f"loss_by_level/{k}": v for k, v in enumerate(row.get("loss_by_level", ())) if v is not None}
    return {k: float(v) for k, v in values.items() if math.isfinite(v)}


class TensorBoard:
    """Event files in the run's folder. A resumed run removes the points of steps that it trains again."""

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
    """A run of the same name and a fixed id, so that a resumed run continues its curves. WANDB_MODE=offline sends nothing."""

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
    """trackio keeps its data in a local database (`trackio show`)."""

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
    """The trackers of one run. Raises ValueError if a requested one cannot start.

    names    as for check()
    folder   the run's folder
    config   the run's settings
    step     the step from which the run continues
    tell     prints a message
    on       False: track nothing
    """

    def __init__(self, names: str, folder: Path, config: dict, step: int = 0, tell: Callable[[str], None] = print, on: bool = True):
        self.tell, self.kept = tell, {}
        chosen = check(names) if on else []
        for name in dict.fromkeys(["tensorboard", *chosen] if on else []):
            try:
                self.kept[name] = KINDS[name](folder, config, step)
            except Exception as error:
                reason = " ".join(str(error).split())[:200]
                if name in chosen:
                    self.close()
                    raise ValueError(f"--track: {name} could not start ({reason})") from error
                tell(f"no TensorBoard files: {reason}")

    def _each(self, what: str, *args) -> None:
        for name, tracker in list(self.kept.items()):
            try:
                getattr(tracker, what)(*args)
            except Exception as error:  # a full disk or a lost connection must not end the run
                del self.kept[name]
                self.tell(f"{name} failed ({' '.join(str(error).split())[:200]}); training continues without it")

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
