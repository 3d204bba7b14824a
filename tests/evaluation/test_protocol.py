"""What a number may be called, what it is kept with, and images that are given."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ddpm_app.evaluation import features, samples
from ddpm_app.evaluation.protocol import Reference, protocol_of, published_name
from ddpm_app.images.datasets import ImageData
from ddpm_app.images.sets import Images


def fake(kind="inception", digest=features.LEGACY + "0" * 56):
    return features.Extractor(kind, kind, digest, ("2048",), "2048", 2048, kind, None, torch.nn.Identity(), torch.device("cpu"))


def of(part, name="cifar10"):
    return Reference(name, part, ImageData(name, torch.zeros(7, 3, 2, 2, dtype=torch.uint8), torch.zeros(7), ()))


def test_fid_alone_is_the_literatures():
    assert published_name("FD", fake(), of("train"), "cifar10", 50_000) == "FID"
    assert (
        published_name("KD", fake(), of("train"), "cifar10", 50_000) == "KID"
        and published_name("IS", fake(), None, "cifar10", 50_000) == "IS"
    )
    assert protocol_of("FD", fake(), of("train"), "cifar10", 50_000)["comparable to the literature"] == "yes"
    assert published_name("FD-infinity", fake(), of("train"), "cifar10", 10_000) == "FID-infinity"
    for extractor, ref, data_name, n in (
        (fake(), of("train"), "cifar10", 49_999),
        (fake(), of("test"), "cifar10", 50_000),
        (fake(), of("", "photos"), "cifar10", 50_000),
        (fake(), of("train", "mnist"), "cifar10", 50_000),
        (fake(digest="ab" * 32), of("train"), "cifar10", 50_000),
    ):
        assert published_name("FD", extractor, ref, data_name, n) == "FD-inception"
        assert protocol_of("FD", extractor, ref, data_name, n)["comparable to the literature"].startswith("no: ")
    for kind in ("classifier", "clip"):
        assert published_name("FD", fake(kind), of("train"), "cifar10", 50_000) == f"FD-{kind}"
    assert published_name("FD-infinity", fake("clip"), of("train"), "cifar10", 5) == "FD-clip-infinity"
    assert published_name("precision", fake(), of("train"), "cifar10", 50_000) == "precision-inception"
    assert published_name("agreement", fake("classifier"), None, "cifar10", 5) == "agreement"


def test_a_folder_of_pictures_keeps_its_pixels(tmp_path):
    from PIL import Image

    g = np.random.default_rng(0).integers(0, 256, (3, 12, 12), dtype=np.uint8)
    for i, image in enumerate(g):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    images, labels = samples.load_images(str(tmp_path), channels=1)
    assert images.shape == (1, 12, 12) and np.array_equal(images.all()[:, 0].numpy(), g)
    assert samples.load_images(str(tmp_path))[0].shape == (3, 12, 12) and isinstance(images, Images)
    Image.new("RGB", (13, 13)).save(tmp_path / "x.png")
    with pytest.raises(ValueError, match="different sizes"):
        samples.load_images(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no readable image"):
        samples.load_images(str(tmp_path / "empty"))
