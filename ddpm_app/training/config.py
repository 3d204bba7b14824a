"""Everything that decides a training run, in one frozen record."""

from __future__ import annotations

from dataclasses import dataclass, field

from ddpm_app.diffusion.denoiser import ROWS, WEIGHTS
from ddpm_app.diffusion.schedules import make_schedule
from ddpm_app.networks.ema import average_lengths
from ddpm_app.networks.unet import PRESETS

LR = {"tiny": 1.6e-3, "small": 8e-4, "ddpm": 2e-4}  # at a batch of 64, ddpm (Ho et al.'s) at 128; tiny: train/RECIPES.md
FREE = ("minutes", "images", "device", "precision", "compile")  # what a resumed run may have anew


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a run. Units stand in each field's help; argparse is built from them."""

    data: str = field(default="mnist", metadata={"help": "digits (8x8, ships), mnist, cifar10, a folder of class folders, or an .npz"})
    preset: str = field(default="tiny", metadata={"help": "network size", "choices": tuple(PRESETS)})
    row: str = field(default="v", metadata={"help": "what the network predicts", "choices": tuple(ROWS)})
    schedule: str = field(default="cosine", metadata={"help": "noise schedule (linear, cosine, sigmoid, scaled-linear, quadratic)"})
    T: int = field(default=1000, metadata={"help": "steps of the schedule"})
    weight: str = field(default="min-snr-5", metadata={"help": "loss weighting", "choices": tuple(WEIGHTS)})
    minutes: float = field(default=0.0, metadata={"help": "budget in minutes of training on this machine (or give --images)"})
    images: int = field(default=0, metadata={"help": "budget in training images"})
    batch: int = field(default=64, metadata={"help": "images a step"})
    lr: float = field(default=1.6e-3, metadata={"help": "peak learning rate of AdamW, of tiny; small 8e-4, ddpm 2e-4"})
    weight_decay: float = field(default=0.01, metadata={"help": "AdamW's decoupled weight decay"})
    warmup: int = field(default=20_000, metadata={"help": "images of linear warm-up (at most a tenth of an --images budget)"})
    decay: str = field(default="linear", metadata={"help": "learning rate to the end of the budget", "choices": ("linear", "none")})
    clip: float = field(default=1.0, metadata={"help": "largest gradient norm"})
    label_dropout: float = field(default=0.1, metadata={"help": "share of labels replaced by the null class; 1 trains unconditionally"})
    flip: str = field(default="auto", metadata={"help": "horizontal flips; auto: not of digits", "choices": ("auto", "yes", "no")})
    ema: float = field(
        default=0.05, metadata={"help": "EMA length as a share of the run (Karras et al. 2024); 0.9 and more is a fixed decay"}
    )
    averages: str = field(
        default="0.05,0.1", metadata={"help": "EMA lengths kept in snapshots, from which any other is made afterwards; none: no such"}
    )
    dropout: float = field(default=-1.0, metadata={"help": "the network's dropout; -1 keeps the preset's"})
    seed: int = field(default=0, metadata={"help": "of everything random"})
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, mps"})
    precision: str = field(default="auto", metadata={"help": "of matrix products", "choices": ("auto", "bf16", "fp32")})
    compile: str = field(default="auto", metadata={"help": "auto: on CUDA, from 5 minutes on", "choices": ("auto", "yes", "no")})
    image_size: int = field(default=0, metadata={"help": "pixels a side for folders; 0: as stored, folders 32"})

    def __post_init__(self):
        if not (self.minutes > 0) ^ (self.images > 0):
            raise ValueError("give a budget: either minutes or images, above 0")
        for name, says, ok in (
            ("minutes", "up to 1,000,000", self.minutes <= 1e6),
            ("batch", "1 to 65536", 1 <= self.batch <= 65536),
            ("lr", "above 0 and below 1", 0 < self.lr < 1),
            ("warmup", "0 or more images", self.warmup >= 0),
            ("label_dropout", "0 to 1", 0 <= self.label_dropout <= 1),
            ("ema", "0 to below 1", 0 <= self.ema < 1),
            ("dropout", "0 to below 1, or -1 for the preset's", self.dropout == -1 or 0 <= self.dropout < 1),
            ("weight_decay", "0 or more", self.weight_decay >= 0),
            ("clip", "above 0", self.clip > 0),
            ("seed", "0 to 2147483647", 0 <= self.seed < 2**31),
        ):
            if not ok:  # not a number at all included
                raise ValueError(f"{name} is {getattr(self, name)}; {says} is accepted")
        make_schedule(self.schedule, self.T)
        average_lengths(self.averages)


def default_of(name: str, preset: str):
    """What a field is where nothing is said of it: its default, but for the learning rate, which the network decides."""
    return LR.get(preset, TrainConfig.lr) if name == "lr" else getattr(TrainConfig, name)


RECIPES: dict[str, dict] = {
    "classic": dict(preset="ddpm", row="eps", schedule="linear", weight="uniform", batch=128)
    | dict(lr=2e-4, weight_decay=1e-4, ema=0.9999, warmup=640_000, decay="none"),
}
