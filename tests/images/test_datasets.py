"""Data sets: accepted and refused sources, splits, and the conversions of pixels."""

from __future__ import annotations

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_app.images import datasets as module
from ddpm_app.images.datasets import CIFAR10_CLASSES, MNIST_CLASSES, ImageData, load_data, split
from ddpm_app.images.pixels import to_model, to_uint8

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
LABELS = np.array([0, 1, 2] * 4)


def npz(folder, name="set.npz", **arrays):
    np.savez(folder / name, **arrays)
    return str(folder / name)


def refused(source, *words) -> str:
    with pytest.raises(ValueError) as caught:
        load_data(str(source))
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text
    return text


# -- range --------------------------------------------------------------------------------------------------------------


def test_every_byte_survives_the_conversion_to_model_space_and_back():
    every = torch.arange(256, dtype=torch.uint8).reshape(1, 16, 16)
    there = to_model(every)
    assert there.dtype == torch.float32 and there.min() == -1 and there.max() == 1
    assert torch.equal(to_uint8(there), every)
    assert torch.equal(to_uint8(there.half()), every) and torch.equal(to_uint8(there.double()), every)


def test_to_uint8_clips_and_rounds():
    x = torch.tensor([-9.0, -1.0, -1 + 0.9 / 255, -1 + 1.1 / 255, 0.999, 1.0, 40.0])
    assert to_uint8(x).tolist() == [0, 0, 0, 1, 255, 255, 255]
    assert to_uint8(torch.tensor([float("inf"), float("-inf")])).tolist() == [255, 0]


# -- npz ----------------------------------------------------------------------------------------------------------------


def test_an_npz_is_loaded(tmp_path):
    found = load_data(npz(tmp_path, arr_0=IMAGES, arr_1=LABELS))
    assert found.name == "set" and found.classes == ("0", "1", "2") and len(found) == 12
    assert found.images.shape == (12, 3, 8, 8) and found.images.dtype == torch.uint8 and found.images.is_contiguous()
    assert torch.equal(found.images[5], torch.from_numpy(IMAGES[5]).permute(2, 0, 1))
    assert found.labels.dtype == torch.int64 and found.labels.tolist() == LABELS.tolist()
    grey = load_data(npz(tmp_path, "grey.npz", arr_0=IMAGES[..., :1]))
    assert grey.images.shape == (12, 1, 8, 8) and grey.labels.tolist() == [0] * 12 and len(grey.classes) == 1
    assert load_data(npz(tmp_path, "u8.npz", arr_0=IMAGES, arr_1=LABELS.astype(np.uint8))).labels.dtype == torch.int64


class Bomb:
    """Unpickling it would leave a trace."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return (open, (str(self.trace), "w"))


@pytest.mark.parametrize("where", ["arr_0", "arr_1"])
def test_object_arrays_are_refused_unopened(tmp_path, where):
    trace = tmp_path / "trace"
    hostile = np.empty(12, object)
    hostile[:] = Bomb(trace)
    refused(npz(tmp_path, **{"arr_0": IMAGES, "arr_1": LABELS, where: hostile}), "set.npz")
    (tmp_path / "pickle.npz").write_bytes(pickle.dumps(Bomb(trace)))
    refused(tmp_path / "pickle.npz", "pickle.npz")
    assert not trace.exists()


@pytest.mark.parametrize(
    "arrays, words",
    [
        (dict(arr_0=IMAGES.astype(np.float32)), ("arr_0", "uint8", "scale them to 0..255")),
        (dict(arr_0=np.full((3, 8, 8, 3), np.nan)), ("arr_0", "values are NaN or infinite")),
        (dict(arr_0=IMAGES[0]), ("arr_0", "(8, 8, 3)")),
        (dict(arr_0=IMAGES.transpose(0, 3, 1, 2)), ("arr_0",)),
        (dict(arr_0=np.zeros((3, 8, 8, 4), np.uint8)), ("arr_0",)),
        (dict(arr_0=IMAGES[:0]), ("arr_0",)),
        (dict(images=IMAGES), ("images", "arr_0")),
        (dict(arr_0=IMAGES, arr_1=LABELS[:5]), ("arr_1",)),
        (dict(arr_0=IMAGES, arr_1=LABELS - 1), ("arr_1", "non-negative")),
        (dict(arr_0=IMAGES, arr_1=LABELS.astype(float)), ("arr_1", "integer")),
        (dict(arr_0=IMAGES, arr_1=np.eye(12, dtype=int)), ("arr_1",)),
        (dict(arr_0=IMAGES, arr_1=LABELS + 2**60), ("arr_1",)),
        (dict(arr_0=IMAGES, arr_1=LABELS.astype(np.uint64) + np.uint64(2**63)), ("arr_1",)),
        (dict(arr_0=np.array(5, np.uint8)), ("arr_0",)),
    ],
)
def test_wrong_arrays_are_named(tmp_path, arrays, words):
    refused(npz(tmp_path, **arrays), "set.npz", *words)


def test_damaged_npz_files_are_refused(tmp_path):
    good = tmp_path / "good.npz"
    np.savez_compressed(good, arr_0=IMAGES, arr_1=LABELS)
    whole = good.read_bytes()
    broken = bytearray(whole)
    broken[60:200] = bytes(140)
    with zipfile.ZipFile(tmp_path / "text.npz", "w") as z:
        z.writestr("arr_0.npy", "not an array")
    array = io.BytesIO()
    np.save(array, IMAGES)
    for name, content in {
        "cut": whole[: len(whole) // 2],
        "none": b"",
        "words": b"hello",
        "broken": bytes(broken),
        "array": array.getvalue(),
    }.items():
        (tmp_path / f"{name}.npz").write_bytes(content)
        refused(tmp_path / f"{name}.npz", f"{name}.npz")
    refused(tmp_path / "text.npz", "text.npz")


def test_unknown_sources_are_named(tmp_path):
    refused(tmp_path / "nothing.npz", "nothing.npz", "mnist", "cifar10")
    refused("imagenet", "imagenet", "mnist")


def test_labels_beyond_a_known_sets_classes(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_DATA", str(tmp_path))
    npz(tmp_path, "mnist-train.npz", arr_0=IMAGES[..., :1], arr_1=LABELS + 8)
    refused("mnist", "arr_1", "10")
    npz(tmp_path, "mnist-train.npz", arr_0=IMAGES[..., :1], arr_1=LABELS)
    assert load_data("mnist").classes == MNIST_CLASSES and load_data("mnist").name == "mnist"


# -- folders ------------------------------------------------------------------------------------------------------------


def test_a_folder_of_class_folders(tmp_path, capsys):
    pytest.importorskip("ddpm_app.images.decode")
    for name, colour in (("cats", (255, 0, 0)), ("dogs", (0, 0, 255))):
        (tmp_path / name / "more").mkdir(parents=True)
        Image.new("RGB", (20, 12), colour).save(tmp_path / name / "a.png")
        Image.new("RGB", (9, 30), colour).save(tmp_path / name / "more" / "b.PNG")
    (tmp_path / "dogs" / "broken.jpg").write_bytes(b"\xff\xd8\xffnothing")
    (tmp_path / "dogs" / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden").mkdir()
    found = load_data(str(tmp_path), image_size=10)
    assert found.classes == ("cats", "dogs") and found.labels.tolist() == [0, 0, 1, 1] and found.name == tmp_path.name
    assert found.images.shape == (4, 3, 10, 10) and found.images[0, :, 5, 5].tolist() == [255, 0, 0]
    assert found.images[3, :, 5, 5].tolist() == [0, 0, 255]
    assert "broken.jpg" in capsys.readouterr().out
    assert load_data(str(tmp_path / "cats")).images.shape[-1] == 32


def test_a_class_needs_an_image(tmp_path, capsys):
    for name in ("a-empty", "b-cats", "c-broken", "d-dogs"):
        (tmp_path / name).mkdir()
    (tmp_path / "c-broken" / "x.png").write_bytes(b"no picture")
    for name in ("b-cats/1.png", "d-dogs/1.png", "beside.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    found = load_data(str(tmp_path), image_size=8)
    assert found.classes == ("b-cats", "d-dogs") and found.labels.tolist() == [0, 1]
    said = capsys.readouterr().out.splitlines()
    assert all(line.startswith("skipped ") for line in said) and len(said) == 4
    assert sum("no class, as there is no readable image" in line for line in said) == 2 and "1 image beside the sub-folders" in said[-1]
    refused(tmp_path / "photos.zip", "unpack the ZIP first")


def test_folder_of_plain_images(tmp_path):
    pytest.importorskip("ddpm_app.images.decode")
    Image.new("L", (40, 40), 128).save(tmp_path / "a.png")
    found = load_data(str(tmp_path))
    assert len(found) == 1 and found.classes == (tmp_path.name,) and found.images.shape == (1, 3, 32, 32)


def test_folders_without_pictures(tmp_path):
    pytest.importorskip("ddpm_app.images.decode")
    refused(tmp_path, "no readable image")
    (tmp_path / "a.png").write_bytes(b"")
    refused(tmp_path, "no readable image", "a.png")


# -- splitting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_split_keeps_images_with_their_labels(n):
    data = ImageData("x", torch.arange(n, dtype=torch.uint8 if n < 256 else torch.int64).reshape(n, 1, 1, 1), torch.arange(n), ("a",))
    train, held = split(data)
    assert len(train) >= 1 and len(held) >= 1
    if n > 1:
        assert sorted(train.labels.tolist() + held.labels.tolist()) == list(range(n))
        assert len(held) == max(round(n / 10), 1)
    assert torch.equal(train.images.flatten().long(), train.labels), "images and labels move together"
    assert torch.equal(split(data)[0].labels, train.labels)
    if n == 1000:
        assert not torch.equal(split(data, seed=1)[0].labels, train.labels)


# -- the real thing -----------------------------------------------------------------------------------------------------


def real(name):
    if not any((root / f"{name}-train.npz").exists() for root in module.paths.data_roots()):
        pytest.skip(f"no {name}-train.npz in $DDPM_DATA or ../shared/data")
    return load_data(name)


def moments(images):
    """Mean and standard deviation of uint8 images / 255, from their histogram."""
    count, value = images.flatten().bincount(minlength=256).double(), torch.arange(256, dtype=torch.float64) / 255
    mean = float((count * value).sum() / count.sum())
    return mean, float((count * value**2).sum() / count.sum() - mean**2) ** 0.5


def test_real_mnist():
    data = real("mnist")
    assert data.images.shape == (60000, 1, 28, 28) and data.classes == MNIST_CLASSES and data.labels.bincount().min() > 5000
    assert moments(data.images) == pytest.approx((0.1307, 0.3081), abs=1e-4)


def test_real_cifar10():
    data = real("cifar10")
    assert data.images.shape == (50000, 3, 32, 32) and data.classes == CIFAR10_CLASSES and data.labels.bincount().tolist() == [5000] * 10
    assert [moments(data.images[:, c])[0] for c in range(3)] == pytest.approx([0.49140, 0.48216, 0.44653], abs=2e-5)


def test_digits_ship(monkeypatch, tmp_path):
    monkeypatch.setenv("DDPM_DATA", str(tmp_path))
    parts = [load_data("digits", part) for part in ("train", "test")]
    assert [len(d) for d in parts] == [1437, 360] and parts[0].images.shape[1:] == (1, 8, 8) and parts[0].classes == MNIST_CLASSES
    for d in parts:  # genuine digits: a class's mean tells its images apart from the others', better than chance by far
        means = torch.stack([parts[0].images[parts[0].labels == k].float().mean(0) for k in range(10)])
        guess = (d.images.float()[:, None] - means).square().sum((2, 3, 4)).argmin(1)
        assert (guess == d.labels).float().mean() > 0.8
