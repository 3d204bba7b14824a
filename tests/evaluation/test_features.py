"""Feature networks as torch-fidelity sees them, features kept under a hash, and what is said where they cannot be had."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from ddpm_app.classifiers.classifier import Classifier
from ddpm_app.evaluation import distances, features
from ddpm_app.files import save_tensors
from ddpm_app.images.sets import Images
from ddpm_app.networks.resnet import ClassifierConfig, ResNet

CONFIG = ClassifierConfig("toy", ("a", "b", "c"), image_size=16, in_channels=3, widths=(8, 12), blocks=(1, 1))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "evaluation" / "features"


@pytest.fixture
def extractor():
    torch.manual_seed(0)
    network = ResNet(CONFIG)
    for p in network.parameters():
        torch.nn.init.normal_(p, std=0.3)
    return features.classifier_features(Classifier(network, digest="0123456789abcdef"))


def pictures(n: int, seed: int = 0, size: int = 16, channels: int = 3) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    rough = torch.randint(0, 256, (n, channels, 4, 4), generator=g).float()
    return torch.nn.functional.interpolate(rough, (size, size), mode="bilinear").to(torch.uint8)


def drained(generator):
    """(all that was yielded, what was returned)."""
    seen = []
    while True:
        try:
            seen.append(next(generator))
        except StopIteration as end:
            return seen, end.value


class Held(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i]


def test_torch_fidelity_sees_the_same_numbers(extractor):
    """Its own calculate_metrics on our registered network, against ours from features that were computed once."""
    import torch_fidelity

    a, b = pictures(60), pictures(80, seed=1) // 2
    theirs = torch_fidelity.calculate_metrics(
        input1=Held(a), input2=Held(b), feature_extractor=extractor.key, fid=True, kid=True, isc=True, prc=True, kid_subset_size=60,
        kid_subsets=4, cuda=False, cache=False, save_cpu_ram=True, verbose=False, batch_size=7,
    )  # fmt: skip
    first, second = (drained(features.features_of(extractor, Images.from_tensor(x), "x"))[1] for x in (a, b))
    fd = distances.frechet_distance(features.stats(first, extractor), features.stats(second, extractor))
    assert fd == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3) and fd > 0.01
    kd = distances.kernel_distance(first["features"], second["features"], subsets=4)[0]
    assert kd == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3, abs=1e-6)
    assert distances.inception_score(first["logits"])[0] == pytest.approx(theirs["inception_score_mean"], rel=1e-4)
    precision, recall = distances.precision_recall(first["features"], second["features"])
    assert (precision, recall) == pytest.approx((theirs["precision"], theirs["recall"]), abs=1e-6)


def test_features_are_computed_in_one_pass_and_cached(extractor, cache):
    seen, found = drained(features.features_of(extractor, Images.from_tensor(pictures(600)), "x"))
    assert [(p.done, p.total) for p in seen] == [(256, 600), (512, 600), (600, 600)]
    assert found["features"].shape == (600, 12) and found["logits"].shape == (600, 3)
    s = distances.statistics(found["features"])
    assert torch.equal(found["mean"], s.mean) and torch.equal(found["cov"], s.cov)
    seen, again = drained(features.features_of(extractor, Images.from_tensor(pictures(600)), "x"))
    assert seen == [] and all(torch.equal(found[k], again[k]) for k in found) and len(list(cache.iterdir())) == 1
    second = pictures(600)
    second[599, 2, 15, 15] ^= 1  # one bit of one pixel
    assert drained(features.features_of(extractor, Images.from_tensor(second), "x"))[0] != []


def test_only_one_batch_of_pixels_is_asked_for(extractor):
    batch_sizes = []

    def part(a, b):
        batch_sizes.append(b - a)
        return pictures(b - a, seed=a)

    drained(features.features_of(extractor, Images(700, (3, 16, 16), part), "x", cache=False))
    assert max(batch_sizes) == features.BATCH and sum(batch_sizes) == 700


@pytest.mark.parametrize("damage", ["cut", "empty", "other", "nan"])
def test_a_damaged_cache_file_is_made_again(extractor, cache, damage):
    x = Images.from_tensor(pictures(20))
    _, found = drained(features.features_of(extractor, x, "x"))
    (file,) = cache.iterdir()
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-40])
    elif damage == "empty":
        file.write_bytes(b"")
    elif damage == "other":
        save_tensors(file, {"features": found["features"]})
    else:
        save_tensors(file, {**found, "features": found["features"] * float("nan")})
    seen, again = drained(features.features_of(extractor, x, "x"))
    assert seen and all(torch.equal(found[k], again[k]) for k in found)
    assert drained(features.features_of(extractor, x, "x"))[0] == []  # whole again


def test_images_and_features_that_are_none(extractor):
    with pytest.raises(ValueError, match=r"toy classifier reads images \(3, 16, 16\), not \(3, 8, 8\)"):
        drained(features.features_of(extractor, Images.from_tensor(pictures(3, size=8)), "x"))
    with pytest.raises(ValueError, match="images are uint8"):
        Images.from_tensor(pictures(3).float() * float("nan"))
    with torch.no_grad():
        for p in extractor_network(extractor).parameters():
            p.mul_(float("nan"))
    with pytest.raises(ValueError, match="gives infinities or NaN for the samples"):
        drained(features.features_of(extractor, Images.from_tensor(pictures(3)), "the samples"))


def extractor_network(extractor):
    """The classifier inside the registered network's closure."""
    compute = type(extractor.network).forward.__closure__
    found = [c.cell_contents for c in compute if callable(c.cell_contents)][0]
    return next(c.cell_contents for c in found.__closure__ if isinstance(c.cell_contents, Classifier)).network


# -- Inception --------------------------------------------------------------------------------------------------------------


def test_the_program_has_one_reachable():
    from ddpm_app.checkpoints import hub

    assert features.reachable is hub.reachable


def test_inception_without_a_network_is_a_sentence_within_seconds(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    begun = time.monotonic()
    with pytest.raises(ValueError, match="does not answer"):
        features.inception_features("https://inception.invalid/weights.pth")
    monkeypatch.setattr(features, "reachable", lambda url: False)
    with pytest.raises(ValueError, match="github.com does not answer"):
        features.inception_features()
    assert time.monotonic() - begun < 20 and not list(tmp_path.rglob("*.pth"))


def test_inception_weights_that_are_none(tmp_path):
    with pytest.raises(ValueError, match="no Inception weights at"):
        features.inception_features(str(tmp_path / "nothing.pth"))
    with pytest.raises(ValueError, match="is not an http"):
        features.inception_features("ftp://x/y.pth")
    (tmp_path / "text.pth").write_text("hello")
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    torch.save({"fc.weight": Bomb(tmp_path / "went-off")}, tmp_path / "bomb.pth")
    for name in ("text", "other", "bomb"):
        with pytest.raises(ValueError, match="does not hold the weights") as caught:
            features.inception_features(str(tmp_path / f"{name}.pth"))
        assert "\n" not in str(caught.value) and "bytes" in str(caught.value) and "PyTorch" not in str(caught.value)
    assert not (tmp_path / "went-off").exists()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.fixture(scope="module")
def random_inception(tmp_path_factory):
    """A file of torch-fidelity's Inception with random weights that keep the signal's size through its 94 layers."""
    from torch_fidelity import feature_extractor_inceptionv3 as module

    class Blank(module.FeatureExtractorInceptionV3):
        def load_state_dict(self, *_, **__):
            pass

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "load_state_dict_from_url", lambda *_, **__: {})
        network = Blank("inception-v3-compat", ["2048"])
    torch.manual_seed(0)
    for m in network.modules():
        if isinstance(m, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(m.weight)
    torch.nn.init.normal_(network.fc.weight, std=0.5)  # classes that differ, so that the score is not 1
    file = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(network.state_dict(), file)
    return file


def folder_of(images: torch.Tensor, place) -> str:
    place.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(place / f"{i:04d}.png")
    return str(place)


@pytest.mark.slow
def test_ours_equals_torch_fidelitys_command_line_on_the_same_pngs(random_inception, tmp_path):
    from ddpm_app.evaluation.samples import load_images

    n = 24
    folders = [folder_of(pictures(n, seed=k, size=32), tmp_path / f"set{k}") for k in (0, 1)]
    command = [sys.executable, "-m", "torch_fidelity.fidelity", "--cpu", "--fid", "--kid", "--isc", "--json", "--silent", "--no-cache"]
    command += ["--save-cpu-ram", "--input1", folders[0], "--input2", folders[1], "--kid-subset-size", str(n), "--kid-subsets", "4"]
    command += ["--feature-extractor-weights-path", str(random_inception)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout[done.stdout.index("{") :])
    extractor = features.inception_features(str(random_inception))
    assert "not the literature's" in extractor.about and extractor.dims == 2048
    first, second = (drained(features.features_of(extractor, load_images(f)[0], "x"))[1] for f in folders)
    fd = distances.frechet_distance(features.stats(first, extractor), features.stats(second, extractor))
    assert fd == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3, abs=1e-3) and fd > 0.1
    kd = distances.kernel_distance(first["2048"], second["2048"], subsets=4)[0]
    assert kd == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3, abs=1e-3) and kd != 0
    score = distances.inception_score(first["logits_unbiased"])[0]
    assert score == pytest.approx(theirs["inception_score_mean"], abs=1e-3) and score > 1.001


def test_grey_pictures_become_three_channels_for_a_network_of_any_size(extractor):
    """The rule for Inception and CLIP, on a network that only counts."""
    import dataclasses

    seen = []

    class Counts(torch.nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape))
            return (x.flatten(1)[:, :2].float(),)

        def convert_features_tuple_to_dict(self, values):
            return {"features": values[0]}

    any_size = dataclasses.replace(extractor, shape=None, layers=("features",), network=Counts())
    grey = pictures(5, channels=1)
    _, found = drained(features.features_of(any_size, Images.from_tensor(grey), "x", cache=False))
    assert seen == [(5, 3, 16, 16)] and np.array_equal(found["features"].numpy(), grey.flatten(1)[:, :2].float().numpy())
