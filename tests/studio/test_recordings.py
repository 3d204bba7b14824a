"""Recordings: the files hold what was sampled, as exactly as a JPEG can, and are the same each time."""

import io
import json
import math
import zlib

import numpy as np
import pytest
from PIL import Image

from ddpm_app.studio import recordings
from ddpm_app.studio.recordings import NOISE_SCALE, Pictures, animation_frames, noise_png, record, record_pictures, record_points
from ddpm_app.studio.request import Request
from ddpm_app.toy.checkpoint import load_toy, save_toy
from ddpm_app.toy.points import load
from ddpm_app.toy.training import ToyTrainConfig, ToyTrainer, train_toys

STEPS = 5
PHOTOS = Pictures("cifar10-random", ("horse", "ship", "dog"), 2.0)
DIGITS = Pictures("mnist-random", ("3", "7"), 1.5)


def files(folder):
    return {f.name: f.read_bytes() for f in sorted(folder.iterdir())}


@pytest.mark.parametrize("what, size, cell", [(PHOTOS, 16, 16), (DIGITS, 14, 16)], ids=["colour", "grey, padded to whole blocks"])
def test_a_recording_is_the_same_each_time_and_gives_every_x_t(studio, tmp_path, what, size, cell):
    seeds = range(5, 5 + len(what.labels))
    for name in "ab":
        record_pictures(studio, "p", what, seeds, tmp_path / name, STEPS)
    assert files(tmp_path / "a") == files(tmp_path / "b") and list(files(tmp_path / "a")) == ["p-noise.png", "p.jpg", "p.json"]
    folder, description = tmp_path / "a", json.loads((tmp_path / "a" / "p.json").read_text())
    assert [(p["label"], p["seed"]) for p in description["pictures"]] == list(zip(what.labels, seeds))
    assert description["size"] == size and description["cell"] == cell and description["steps"] == STEPS

    def frames_of(k):
        fixed = {"checkpoint": what.checkpoint, "n": 1, "guidance": what.guidance, "sampler": "ddim", "evaluations": STEPS}
        return list(studio.sample(Request(label=what.labels[k], seed=seeds[k], **fixed)))

    frames = frames_of(1)
    assert description["t"] == [round(f.t, 2) for f in frames]
    assert description["sigma"] == pytest.approx([f.sigma for f in frames], rel=1e-5)
    guesses = np.asarray(Image.open(folder / "p.jpg").convert("RGB")).astype(float)
    assert guesses.shape == (STEPS * cell, len(what.labels) * cell, 3)
    grids, captions = animation_frames((folder / "p-noise.png").read_bytes(), [(folder / "p.jpg").read_bytes()], description)
    assert len(grids) == len(captions) == STEPS + 1 and captions[-1] == f"t = 0, step {STEPS} of {STEPS}"
    for k, frame in enumerate(frames):
        if k:  # the guess, as a JPEG keeps it
            cells = guesses[(k - 1) * cell :][:size, cell : cell + size].transpose(2, 0, 1)
            assert np.abs(cells - frame.x0[0]).mean() < 8
        pad = max(size // 16, 1)
        x_t = np.asarray(grids[k]).astype(float)[:size, size + pad : 2 * size + pad].transpose(2, 0, 1)
        assert np.abs(x_t - frame.x[0]).mean() < 8, k
    assert np.abs(x_t - frames[-1].x[0]).mean() < np.abs(x_t - frames_of(0)[-1].x[0]).mean() / 3  # it is this seed's picture


def test_the_noise_png_is_what_the_sampler_starts_from(studio):
    frame = next(studio.sample(Request(checkpoint="cifar10-random", label="horse", n=2, sampler="ddim", evaluations=4, seed=1)))
    pixels = np.asarray(Image.open(io.BytesIO(noise_png(studio, PHOTOS, [1, 2])))).astype(float)
    x_T = (pixels / 127.5 - 1) * NOISE_SCALE
    assert pixels.shape == (16, 32, 3) and abs(x_T.std() - 1) < 0.05
    shown = (127.5 + 127.5 * x_T).clip(0, 255)
    assert np.abs(shown[:, 16:].transpose(2, 0, 1) - frame.x[1]).max() <= 127.5 * NOISE_SCALE / 255 + 2


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    recipe, config = {"name": "spirals", "n": 500, "seed": 0}, ToyTrainConfig(width=32, steps=60, batch=64, label_dropout=1.0)
    data = load(**recipe)
    trainer = ToyTrainer([config], data)
    for _ in train_toys(trainer, every=60):
        pass
    save_toy(tmp_path_factory.mktemp("toys") / "spirals", trainer.denoisers()[0], data, config, recipe)
    return load_toy(next(tmp_path_factory.getbasetemp().glob("toys*/spirals")))


def test_the_points_follow_from_x_T_and_the_guesses(toy, tmp_path):
    n = 40
    for name in "ab":
        record_points(toy, "points", tmp_path / name, seed=3, steps=STEPS, n=n)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    description = json.loads((tmp_path / "a" / "points.json").read_text())
    data = np.frombuffer(zlib.decompress((tmp_path / "a" / "points.bin").read_bytes()), np.uint8)
    classes, (low, high) = data[:n], data[n:].reshape(2, -1)
    numbers = np.stack([low, high], 1).reshape(-1).view("<i2").reshape(STEPS + 1, n, 2).astype(float)
    x, guesses, sigma = numbers[0], numbers[1:].cumsum(0), description["sigma"]
    x_t, x0, ends = recordings.cloud(toy, 3, STEPS, n)
    for k in range(STEPS):
        assert (guesses[k] == x0[k]).all()
        state = x * math.sqrt(1 + sigma[k] ** 2)
        x = (guesses[k] + sigma[k + 1] / sigma[k] * (state - guesses[k])) / math.sqrt(1 + sigma[k + 1] ** 2)
        assert np.abs(x - x_t[k + 1]).max() < 2  # thousandths of the half side
    assert (classes == ends).all() and set(classes) <= {0, 1}


def test_a_recording_that_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match="unknown recording 'films'; known: photos, digits, points"):
        record(["films"], tmp_path, 2, print)
    assert not list(tmp_path.iterdir())
