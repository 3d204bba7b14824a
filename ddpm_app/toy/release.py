"""Train a toy, measure it and save it with its card; and the toys that ship with the program."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from ddpm_app.files import write_atomically
from ddpm_app.flags import check_choice
from ddpm_app.toy.card import TEST_POINTS, card, measure
from ddpm_app.toy.checkpoint import save_toy
from ddpm_app.toy.points import load
from ddpm_app.toy.shapes import split
from ddpm_app.toy.training import ToyTrainConfig, ToyTrainer, train_toys

SETTINGS = dict(schedule="cosine", prediction_type="v", lr=8e-3, steps=12_000, batch=256)
SHIPPED = {
    "moons": ("moons", ToyTrainConfig(**SETTINGS, label_dropout=1.0)),
    "moons-classes": ("moons", ToyTrainConfig(**SETTINGS, label_dropout=0.1)),
    "eight-gaussians": ("eight-gaussians", ToyTrainConfig(**SETTINGS, label_dropout=0.1)),
    "spirals": ("spirals", ToyTrainConfig(**SETTINGS, label_dropout=1.0)),
}


def release(out: Path, recipe: dict, config: ToyTrainConfig, command: str, report: Callable[[str], None]) -> None:
    """Write config.json, weights.safetensors and README.md into `out`, whose name is the model's.

    recipe: the arguments of toy.points.load. command: for the card. report: called with each line of progress."""
    data = load(**recipe)
    for note in data.notes:
        report(note)
    train_data, _ = split(data, TEST_POINTS)
    trainer = ToyTrainer([config], train_data)
    report(f"{out.name}: {len(train_data)} points, {sum(p.numel() for p in trainer.parameters)} parameters")
    for event in train_toys(trainer, every=max(config.steps // 20, 1)):
        report(f"step {event.step} of {event.steps}  loss {event.loss[0]:.4f}  {event.seconds:.1f} s")
    denoiser = trainer.denoisers()[0]
    measured = measure(denoiser, data)
    save_toy(out, denoiser, data, config, recipe, measured)
    write_atomically(out / "README.md", card(out.name, data, config, measured, trainer.seconds, command))
    for m in measured:
        report(f"  {m['name']}: {m['value']:.4f}" + (f" +- {m['error']:.4f}" if m["error"] else ""))
    report(str(out))


def release_shipped(names: Sequence[str], out: Path, report: Callable[[str], None]) -> None:
    """Train these of the toys that ship (all if names is empty) into folders of `out`. Raises ValueError for an unknown name."""
    for name in names or SHIPPED:
        check_choice("model", name, SHIPPED)
    for name in names or SHIPPED:
        data, config = SHIPPED[name]
        release(out / name, {"name": data, "n": 10_000, "seed": 0}, config, f"python train/train_toy.py shipped {name}", report)
