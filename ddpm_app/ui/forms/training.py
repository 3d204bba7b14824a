"""The Train tab's form: its controls, and the settings of a run that they hold."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

import gradio as gr

from ddpm_app.diffusion.denoiser import PREDICTION_TYPES, WEIGHTS
from ddpm_app.diffusion.schedules import SCHEDULES
from ddpm_app.flags import parse_flags, settings_to_flags, whole
from ddpm_app.networks.device import pick_device
from ddpm_app.training import runs
from ddpm_app.training.config import TrainConfig
from ddpm_app.training.probe import VALIDATIONS

OWN = "own"
DATA = [
    ("MNIST (28 × 28, grey)", "mnist"),
    ("CIFAR-10 (32 × 32, colour)", "cifar10"),
    ("Digits (8 × 8, no download)", "digits"),
    ("Own images", OWN),
]
MINUTES = 30  # of a run, until the visitor chooses another budget
# settings that have no control
FURTHER = ("T", "weight_decay", "decay", "clip", "label_dropout", "flip", "averages", "dropout", "device", "precision", "compile")
FURTHER += ("teacher", "teacher_guidance", "teacher_evaluations", "trained_levels", "tuned_for")


def own_data(path: str) -> str:
    """The absolute path of a folder or .npz on this machine. Raises ValueError if there is none."""
    if not path.strip():
        raise ValueError("no folder is given; a folder with one sub-folder per class, or a ZIP of one, is accepted")
    place = Path(path.strip()).expanduser()
    if not (place.is_dir() or (place.is_file() and place.suffix == ".npz")):
        raise ValueError(
            f"{path.strip()[:200]} is not on the machine of the studio, or of another kind; a folder or an .npz file is accepted"
        )
    return str(place.resolve())


def further(text: str) -> dict:
    """Settings that have no control, from a text of train_unet.py's flags: "--T 200 --flip no". Raises ValueError."""
    try:
        return parse_flags(TrainConfig, text, FURTHER)
    except ValueError as error:
        raise ValueError(f"further settings: {error}") from None


def further_text(settings: dict) -> str:
    """The text from which further() reads these settings. Settings at their defaults are left out."""
    return shlex.join(settings_to_flags(TrainConfig, settings, FURTHER))


class Form:
    """The controls, and the settings of a run that they hold."""

    def __init__(self):
        with gr.Group():
            self.data = gr.Dropdown(DATA, value=TrainConfig.data, label="Data", elem_id="train-data")
            self.path = gr.Textbox(
                label="Folder", placeholder="/home/me/photos", max_length=400, visible=False, elem_id="train-path",
                info="On this machine, one sub-folder a class; or an .npz with arr_0 and arr_1.",
            )  # fmt: skip
            self.zip = gr.File(
                label="Or a ZIP, one sub-folder a class", file_types=[".zip"], height=150, visible=False, elem_id="train-zip"
            )
            self.size = gr.Slider(8, 64, value=32, step=8, label="Pixels a side", visible=False)
            self.preset = gr.Dropdown(
                [("tiny: a CPU's half hour", "tiny"), ("small: a GPU's half hour", "small"), ("ddpm: Ho et al., 35.7 M", "ddpm")],
                value=TrainConfig.preset, label="Network", elem_id="train-preset",
            )  # fmt: skip
            self.prediction_type = gr.Dropdown(
                list(PREDICTION_TYPES), value=TrainConfig.prediction_type, label="Predicts", info="v and edm stand few-step sampling best."
            )
            self.schedule = gr.Dropdown(list(SCHEDULES), value=TrainConfig.schedule, label="Noise schedule")
            self.minutes = gr.Number(MINUTES, label="Budget, minutes", elem_id="train-minutes")
        with gr.Accordion("Advanced", open=False):
            # no minimum, maximum or precision: Gradio would refuse or round the number before TrainConfig can name the accepted ones
            self.batch = gr.Number(TrainConfig.batch, label="Batch", elem_id="train-batch")
            self.lr = gr.Number(TrainConfig.lr, label="Learning rate, peak")
            self.warmup = gr.Number(TrainConfig.warmup, label="Warm-up, images")
            self.ema = gr.Number(TrainConfig.ema, label="EMA length", info="A share of the run; 0.9 and more is a fixed decay.")
            self.validations = gr.Number(
                VALIDATIONS[1], label="Evaluations", elem_id="train-validations",
                info="Validation, sample grid and saved state, this often over the budget.",
            )  # fmt: skip
            self.weight = gr.Dropdown(
                list(WEIGHTS),
                value=TrainConfig.weight,
                label="Loss weight",
                info="min-snr-5 makes better pictures soon; uniform costs fewer bits per dimension.",
            )
            self.seed = gr.Number(TrainConfig.seed, label="Seed")
            self.further = gr.Textbox(
                "", label="Further settings", placeholder="--T 200 --flip no --label-dropout 0.2", max_lines=1, max_length=300,
                info="Flags of train_unet.py that have no control here.", elem_id="train-further",
            )  # fmt: skip
            self.name = gr.Textbox(label="Name", placeholder="chosen for you", max_length=60, elem_id="train-name")
            self.init = gr.Textbox(label="Begin from the weights in", placeholder="a checkpoint or snapshot folder", max_length=400)
            self.now = gr.Checkbox(False, label="Do not wait for the device", info="Otherwise one run at a time trains; the next waits.")

    @property
    def fields(self) -> list:
        return list(vars(self).values())

    def settings(self, values: dict) -> dict:
        """Fields of TrainConfig. Raises ValueError for settings that cannot be trained."""
        data = str(values[self.data])
        if data not in [v for _, v in DATA]:
            raise ValueError(f"unknown data {data[:40]!r}; known: {', '.join(v for _, v in DATA)}")
        numbers = {k: values[getattr(self, k)] for k in ("minutes", "lr", "ema")}
        for k, v in numbers.items():
            if not isinstance(v, (int, float)) or isinstance(v, bool):
                raise ValueError(f"{k} is {'empty' if v is None else repr(v)}; a number is accepted")
        settings = {
            "data": data if data != OWN else own_data(str(values[self.path] or "")),
            **{k: str(values[getattr(self, k)]) for k in ("preset", "prediction_type", "schedule", "weight")},
            **{k: float(v) for k, v in numbers.items()},
            **{k: whole(values[getattr(self, k)], k) for k in ("batch", "warmup", "seed")},
            **further(str(values[self.further] or "")),
        }
        if data == OWN and whole(values[self.size], "pixels a side") != 32:
            settings["image_size"] = int(values[self.size])
        TrainConfig(**settings)  # checks every field
        pick_device(settings.get("device", "auto"))
        return settings

    def extra(self, values: dict) -> list[str]:
        """Arguments of train_unet.py that are no field of TrainConfig. Raises ValueError."""
        validations = whole(values[self.validations], "evaluations", 1, 1000)
        return [] if validations == VALIDATIONS[1] else ["--validations", str(validations)]

    def name_of(self, values: dict, settings: dict) -> str:
        return str(values[self.name] or "").strip() or runs.free_name(f"{Path(settings['data']).stem}-{settings['preset']}")

    def from_run(self, run: runs.Run, snapshot: str) -> dict:
        """Updates that set every control to the run's settings; the new run starts from the weights of one of its snapshots."""
        place = next((p for p in run.snapshots() if p.name == snapshot), None)
        if place is None:
            raise ValueError(f"{run.name} has no snapshot {snapshot[:40]!r}")
        s = {**asdict(TrainConfig(minutes=MINUTES)), **run.settings}
        is_folder = s["data"] not in [v for _, v in DATA]
        directory = runs.read_json(run.folder / "job.json").get("cwd") or ""  # a relative path of the data starts there
        path = str(Path(directory, s["data"])) if is_folder else ""
        argv = run.job.get("argv") or []
        count = next((value for name, value in zip(argv, argv[1:]) if name in ("--validations", "--marks")), "")  # --marks: older runs
        same = {self.validations: int(count) if count.isdecimal() else VALIDATIONS[1]}
        same |= {
            getattr(self, k): s[k] for k in ("preset", "prediction_type", "schedule", "batch", "lr", "warmup", "ema", "weight", "seed")
        }
        return {
            **same,
            self.data: OWN if is_folder else s["data"],
            self.path: gr.Textbox(path, visible=is_folder),
            self.zip: gr.File(visible=is_folder),
            self.size: gr.Slider(value=s["image_size"] or 32, visible=is_folder),
            self.further: further_text(s),
            self.minutes: s["minutes"] or MINUTES,
            self.name: "",
            self.init: str(place),
        }
