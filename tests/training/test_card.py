"""The card of a shipped model describes every run that led to its weights."""

import dataclasses
import json
import math
from pathlib import Path

from ddpm_app.checkpoints import checkpoint, weights
from ddpm_app.checkpoints.checkpoint import CheckpointConfig
from ddpm_app.checkpoints.measurements import Measurement, store, stored_measurements
from ddpm_app.cli.ship import main
from ddpm_app.networks.unet_config import UNetConfig
from ddpm_app.training import card as training_card
from ddpm_app.training.config import TrainConfig
from tests.conftest import make_checkpoint


def run(folder: Path, images: int, seconds: float, loss: float, argv: list[str], **settings) -> Path:
    """A finished run as train_unet.py leaves it."""
    make_checkpoint(folder, size=8, channels=1, classes=("a", "b"))
    found = checkpoint.open_checkpoint(folder)
    training = dataclasses.asdict(TrainConfig(data="digits", images=images, **settings))
    config = dataclasses.replace(found.config, images_seen=images, training=training)
    checkpoint.save(folder, config, weights.read_weights(found.path))
    (folder / "log.jsonl").write_text(json.dumps({"step": 9, "images": images, "seconds": seconds, "validation_loss": loss}) + "\n")
    (folder / "job.json").write_text(json.dumps({"argv": argv, "cwd": str(folder.parent)}))
    return folder


def test_a_card_tells_of_the_run_that_was_forked(tmp_path, capsys):
    first = run(tmp_path / "first", 640, 120, 0.5, ["--data", "digits"], weight="min-snr-5")
    second = run(tmp_path / "second", 320, 60, 0.25, ["--init", "first/snapshots/0000000640"], weight="uniform")
    assert training_card.lineage(second) == [first, second] and training_card.lineage(first) == [first]
    assert main([str(second), str(tmp_path / "out")]) == 0 and "960 images seen" in capsys.readouterr().out
    card = (tmp_path / "out" / "README.md").read_text()
    assert "640 images in 2.0 minutes, then 320 images in 1.0 minutes; the run has not recorded its machine" in card
    assert (tmp_path / "out" / "log-first.jsonl").read_text() == (first / "log.jsonl").read_text()
    commands = [line.strip() for line in card.splitlines() if "train_unet.py" in line]
    assert len(commands) == 2 and commands[0].endswith("--images 640 --out runs/first")
    assert commands[1].endswith("--weight uniform --images 320 --init runs/first --out runs/second")
    assert "| validation loss | 0.25 | loss mean squared error of F, images the first 512 of the held-out tenth" in card
    shipped = checkpoint.open_checkpoint(tmp_path / "out")
    assert shipped.config.images_seen == 960 and shipped.config.metrics == []
    assert [(row["name"], row["value"]) for row in stored_measurements(shipped)] == [("validation loss", 0.25)]
    # numbers measured since are kept when the same run is shipped again
    store(shipped, Measurement("agreement", 0.5, math.nan, {}, {"n": 10}))
    assert main([str(second), str(tmp_path / "out")]) == 0
    assert [row["name"] for row in stored_measurements(shipped)] == ["validation loss", "agreement"]


def test_a_validation_loss_in_an_older_config_is_kept_and_not_stored_twice(tmp_path):
    source = run(tmp_path / "run", 640, 120, 0.5, [])
    assert main([str(source), str(tmp_path / "out")]) == 0
    shipped = checkpoint.open_checkpoint(tmp_path / "out")
    (shipped.path / "metrics.json").unlink()
    row = {"name": "validation loss", "value": 0.5, "protocol": "mean squared error of F"}
    checkpoint.save(shipped.path, dataclasses.replace(shipped.config, metrics=[row]), weights.read_weights(shipped.path))
    assert main([str(source), str(tmp_path / "out")]) == 0
    assert stored_measurements(checkpoint.open_checkpoint(shipped.path)) == [row]
    assert "| validation loss | 0.5 | mean squared error of F |" in (shipped.path / "README.md").read_text()


def test_a_weighted_validation_loss_says_so_and_lost_beginnings_are_refused(tmp_path, capsys):
    alone = run(tmp_path / "alone", 640, 120, 0.5, [], weight="min-snr-5")
    assert main([str(alone), str(tmp_path / "out")]) == 0
    assert "mean squared error of F weighted by min-snr-5, images" in (tmp_path / "out" / "README.md").read_text()
    lost = run(tmp_path / "lost", 640, 120, 0.5, ["--init", "gone"])
    assert main([str(lost), str(tmp_path / "out2")]) == 2 and "not the folder of a run" in capsys.readouterr().err
    assert not (tmp_path / "out2").exists()


def test_the_card_of_weights_kept_early_tells_of_them_alone(tmp_path):
    early = run(tmp_path / "early", 640, 60, 0.5, [])
    (early / "job.json").write_text(json.dumps({"machine": "CPU, 7 threads"}))
    with (early / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 99, "images": 6400, "seconds": 6000, "validation_loss": 0.125}) + "\n")
    assert main([str(early), str(tmp_path / "a")]) == 0
    card = (tmp_path / "a" / "README.md").read_text()
    assert (
        "| validation loss | 0.5 |" in card
        and "640 images in 1.0 minutes (the whole run: 6,400); CPU, 7 threads" in card
        and "0.125" not in card
    )
    source = checkpoint.open_checkpoint(early)
    checkpoint.save(
        early / "snapshots" / "0000000640",
        dataclasses.replace(source.config, ema="power, 0.05 of the run"),
        {**weights.read_weights(early)},
    )
    checkpoint.save(early, dataclasses.replace(source.config, ema="none (raw weights)"), weights.read_weights(early))
    assert main([str(early), str(tmp_path / "b")]) == 0
    (early / "samples").mkdir()
    (early / "samples" / "0000000640.png").write_bytes(b"the EMA's")
    for place in ("b", "a"):  # anew, and over the card of the EMA after as many images
        assert main([str(early), str(tmp_path / place)]) == 0
        card = (tmp_path / place / "README.md").read_text()
        assert "validation loss" not in card, "it is taken of the run's EMA only"
        assert "| weights | raw, no EMA, fp16" in card and not (tmp_path / place / "samples.png").exists()


def test_the_sample_grids_up_to_the_shipped_weights_are_copied(tmp_path):
    ended = run(tmp_path / "ended", 640, 60, 0.5, [])
    (ended / "samples").mkdir()
    for images in (320, 640, 960):
        (ended / "samples" / f"{images:010d}.png").write_bytes(f"grid of {images}".encode())
    assert main([str(ended), str(tmp_path / "out")]) == 0
    copied = {p.name: p.read_bytes() for p in (tmp_path / "out" / "samples").iterdir()}
    assert copied == {"0000000320.png": b"grid of 320", "0000000640.png": b"grid of 640"}
    assert (tmp_path / "out" / "samples.png").read_bytes() == b"grid of 640"


def test_the_card_of_a_tuned_model_names_its_teacher_and_its_fixed_guidance():
    from ddpm_app.training.card import tuned_row

    def config(**fields):
        network = UNetConfig(8, 1, channels=8, multipliers=(1,), blocks=1, attention=(), num_classes=2)
        return CheckpointConfig(network, {"name": "cosine", "T": 10}, "v", "toy", ("a", "b"), 12, **fields)

    assert tuned_row(config()) == ""
    row = tuned_row(config(training={"teacher": "checkpoints/mnist"}, tuned_for=2, guidance=1.5))
    assert "from `mnist`" in row and "2 evaluations per image" in row and "guidance is fixed at 1.5" in row
