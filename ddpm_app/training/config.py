"""Everything that decides a training run, in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass

from ddpm_app.diffusion.denoiser import PREDICTION_TYPES, WEIGHTS
from ddpm_app.diffusion.schedules import SCHEDULES, make_schedule
from ddpm_app.flags import check, setting
from ddpm_app.networks.ema import average_lengths
from ddpm_app.networks.unet_config import PRESETS

LR = {"tiny": 1.6e-3, "small": 8e-4, "ddpm": 2e-4}  # at a batch of 64, ddpm (Ho et al.'s) at 128; tiny: train/RECIPES.md
FREE = ("minutes", "images", "device", "precision", "compile")  # what a resumed run may have anew


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run: each field with its help, its unit and what it accepts. The flags of train_unet.py are these."""

    data: str = setting("mnist", "digits (8x8, ships), mnist, cifar10, a folder of class folders, or an .npz", always=True)
    preset: str = setting("tiny", "network size", choices=PRESETS, always=True)
    row: str = setting("v", "what the network predicts", choices=PREDICTION_TYPES, always=True)
    schedule: str = setting("cosine", "noise schedule", choices=SCHEDULES, always=True)
    T: int = setting(1000, "steps of the schedule")
    weight: str = setting("min-snr-5", "loss weighting", choices=WEIGHTS)
    minutes: float = setting(0.0, "budget of training on this machine; or give --images", unit="minutes", low=0, high=1e6)
    images: int = setting(0, "budget in training images; or give --minutes", unit="images", low=0)
    batch: int = setting(64, "images of one training step", low=1, high=65536)
    lr: float = setting(LR["tiny"], "peak learning rate of AdamW; small 8e-4, ddpm 2e-4", above=0, below=1, default_by=("preset", LR))
    weight_decay: float = setting(0.01, "AdamW's decoupled weight decay", low=0)
    warmup: int = setting(20_000, "linear warm-up, at most a tenth of an --images budget", unit="images", low=0)
    decay: str = setting("linear", "learning rate to the end of the budget", choices=("linear", "none"))
    clip: float = setting(1.0, "largest gradient norm", above=0)
    label_dropout: float = setting(0.1, "share of labels replaced by the null class; 1 trains unconditionally", low=0, high=1)
    flip: str = setting("auto", "horizontal flips; auto flips all but digits", choices=("auto", "yes", "no"))
    ema: float = setting(0.05, "EMA length as a share of the run (Karras et al. 2024); 0.9 and more is a fixed decay", low=0, below=1)
    averages: str = setting("0.05,0.1", "EMA lengths kept in snapshots, from which any other is made afterwards, or none")
    dropout: float = setting(-1.0, "the network's dropout; -1 keeps the preset's", low=0, below=1, also=(-1,))
    seed: int = setting(0, "seed of everything random", low=0, high=2**31 - 1)
    device: str = setting("auto", "auto, cpu, cuda, mps")
    precision: str = setting("auto", "precision of matrix products", choices=("auto", "bf16", "fp32"))
    compile: str = setting("auto", "compile the network; auto: on CUDA, for budgets of 5 minutes or more", choices=("auto", "yes", "no"))
    image_size: int = setting(0, "pixels a side of a folder's images; 0 is 32. Other data stay as stored", low=0)

    def __post_init__(self):
        if not (self.minutes > 0) ^ (self.images > 0):
            raise ValueError("give a budget: either minutes or images, above 0")
        check(self)
        make_schedule(self.schedule, self.T)
        average_lengths(self.averages)


RECIPES: dict[str, dict] = {
    "classic": dict(preset="ddpm", row="eps", schedule="linear", weight="uniform", batch=128)
    | dict(lr=2e-4, weight_decay=1e-4, ema=0.9999, warmup=640_000, decay="none"),
}
