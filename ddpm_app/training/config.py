"""The settings of a training run."""

from __future__ import annotations

from dataclasses import dataclass

from ddpm_app.diffusion.denoiser import PREDICTION_TYPES, WEIGHTS
from ddpm_app.diffusion.schedules import SCHEDULES, make_schedule
from ddpm_app.flags import check, setting
from ddpm_app.networks.ema import average_lengths
from ddpm_app.networks.unet_config import PRESETS

# by preset: tiny from train/RECIPES.md, ddpm from Ho et al. 2020; for a batch of 64, ddpm for 128
LR = {"tiny": 1.6e-3, "small": 8e-4, "ddpm": 2e-4}
CHANGEABLE = ("minutes", "images", "device", "precision", "compile")  # settings that may change when a run is resumed


@dataclass(frozen=True)
class TrainConfig:
    """All settings of a run, one field each with its help, its unit and the values it accepts. train_unet.py has a flag for each."""

    data: str = setting("mnist", "digits (8x8, included), mnist, cifar10, a folder of class folders, or an .npz file", always=True)
    preset: str = setting("tiny", "network size", choices=PRESETS, always=True)
    prediction_type: str = setting("v", "what the network predicts", choices=PREDICTION_TYPES, always=True, alias="row")
    schedule: str = setting("cosine", "noise schedule", choices=SCHEDULES, always=True)
    T: int = setting(1000, "steps of the schedule")
    weight: str = setting("min-snr-5", "loss weighting", choices=WEIGHTS)
    minutes: float = setting(0.0, "budget as training time; alternative to --images", unit="minutes", low=0, high=1e6)
    images: int = setting(0, "budget as a number of training images; alternative to --minutes", unit="images", low=0)
    batch: int = setting(64, "images per training step", low=1, high=65536)
    lr: float = setting(LR["tiny"], "peak learning rate of AdamW; small: 8e-4, ddpm: 2e-4", above=0, below=1, default_by=("preset", LR))
    weight_decay: float = setting(0.01, "decoupled weight decay of AdamW", low=0)
    warmup: int = setting(20_000, "linear warm-up of the learning rate, at most a tenth of an --images budget", unit="images", low=0)
    decay: str = setting("linear", "decay of the learning rate: linear to 0 at the end of the budget, or none", choices=("linear", "none"))
    clip: float = setting(1.0, "gradients with a larger norm are scaled to this norm", above=0)
    label_dropout: float = setting(0.1, "share of labels replaced by the null class; 1 trains unconditionally", low=0, high=1)
    flip: str = setting("auto", "horizontal flips; auto flips all but digits", choices=("auto", "yes", "no"))
    ema: float = setting(0.05, "EMA length as a share of the run (Karras et al. 2024); from 0.9 on, a fixed decay", low=0, below=1)
    averages: str = setting("0.05,0.1", "EMA lengths stored in snapshots, for EMAs of other lengths after training; or none")
    dropout: float = setting(-1.0, "dropout of the network; -1 is the preset's value", low=0, below=1, also=(-1,))
    seed: int = setting(0, "seed of all random numbers", low=0, high=2**31 - 1)
    device: str = setting("auto", "device: auto, cpu, cuda, mps")
    precision: str = setting("auto", "precision of matrix products", choices=("auto", "bf16", "fp32"))
    compile: str = setting(
        "auto",
        "compile the network; auto: on CUDA, for budgets of 5 minutes or more; graph: also record the step as a CUDA graph",
        choices=("auto", "yes", "no", "graph"),
    )
    image_size: int = setting(0, "side in pixels to which images of a folder are resized; 0 is 32. Other data keep their size", low=0)
    teacher: str = setting("", "tune to few evaluations: the model whose guided sampling is learned, its name or its directory")
    teacher_guidance: float = setting(1.5, "guidance scale of the teacher, which the tuned model contains", low=0, high=20)
    teacher_evaluations: int = setting(5, "evaluations of each of the teacher's trajectories", low=2, high=64)
    trained_levels: int = setting(2, "noise levels trained of each trajectory: the highest, and others by chance", low=1, high=64)
    tuned_for: int = setting(1, "evaluations that the tuned model takes by default", low=1, high=8)

    def __post_init__(self):
        if not (self.minutes > 0) ^ (self.images > 0):
            raise ValueError(f"minutes is {self.minutes} and images is {self.images}; give a budget: exactly one of them above 0")
        check(self)
        make_schedule(self.schedule, self.T)
        average_lengths(self.averages)


RECIPES: dict[str, dict] = {
    "classic": dict(preset="ddpm", prediction_type="eps", schedule="linear", weight="uniform", batch=128)
    | dict(lr=2e-4, weight_decay=1e-4, ema=0.9999, warmup=640_000, decay="none"),
    "few": dict(batch=16, weight_decay=0.0, warmup=320, averages="none"),  # tune_few.py: short runs from trained weights
}
