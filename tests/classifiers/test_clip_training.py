"""Captions from file names, the loss with several matching captions an image, and the script at tiny size."""

from __future__ import annotations

import importlib.util
import json
import math
import random

import numpy as np
import pytest
import torch

from ddpm_app.classifiers import captions, classifier, clip_training
from ddpm_app.classifiers.clip import build_model, open_clip_directory
from ddpm_app.images.datasets import CIFAR10_CLASSES
from ddpm_app.networks import resnet

pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def train_clip():
    import train_clip

    return train_clip


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Sixty noisy pictures a part in the data sets' own layout: cats bright, ships dark."""
    g = np.random.default_rng(0)
    for part in ("train", "test"):
        labels = g.choice([3, 8], 60)
        images = np.clip(g.normal(np.where(labels == 3, 190, 60)[:, None, None, None], 30, (60, 32, 32, 3)), 0, 255).astype(np.uint8)
        names = [f"{'tabby_cat' if k == 3 else 'container_ship'}_s_{i:06d}" for i, k in enumerate(labels)]
        np.savez(tmp_path / f"cifar10-{part}.npz", arr_0=images, arr_1=labels, filenames=names)
    monkeypatch.setenv("DDPM_DATA", str(tmp_path))
    return tmp_path


def test_terms_come_from_file_names(data):
    assert captions.term_of("tabby_cat_s_000123") == "tabby cat" == captions.term_of("tabby_cat_s_000123.png")
    pictures = captions.load_captioned("train")
    assert pictures.terms == ("container ship", "tabby cat")
    assert ((pictures.term == 1) == (pictures.data.labels == 3)).all()
    np.savez(data / "cifar10-train.npz", arr_0=np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="holds no filenames"):
        captions.load_captioned("train")


def test_file_names_come_from_torchvision_where_no_npz_exists(tmp_path, monkeypatch):
    """The batches that torchvision keeps hold the file names, in the order of its images."""
    import pickle

    from torchvision import datasets

    (tmp_path / "cifar-10-batches-py").mkdir()
    for k in (1, 2):
        (tmp_path / "cifar-10-batches-py" / f"b{k}").write_bytes(pickle.dumps({"filenames": [f"emu_s_00000{k}.png"]}))

    class Fake:
        root, base_folder, train_list, test_list = str(tmp_path), "cifar-10-batches-py", [("b1", ""), ("b2", "")], []

        def __init__(self, root, train):
            assert root == str(tmp_path) and train

    monkeypatch.setenv("DDPM_DATA", str(tmp_path))
    monkeypatch.setattr(captions.paths, "data_roots", lambda: [tmp_path])
    monkeypatch.setattr(datasets, "CIFAR10", Fake)
    assert captions.file_names("train") == ["emu_s_000001.png", "emu_s_000002.png"]


def test_captions_name_the_term_or_the_class():
    draw, seen = random.Random(0), set()
    for _ in range(400):
        text, of_class = captions.caption("tabby cat", "cat", draw)
        assert ("tabby" in text) != of_class and "cat" in text
        seen.add(text)
    assert {"a photo of a tabby cat, a type of cat", "a photo of a cat", "a tabby cat"} <= seen
    said = {captions.caption("car", "automobile", draw) for _ in range(400)}
    assert not {t for t, of_class in said if of_class} & {t for t, of_class in said if not of_class}  # never the same words for both
    assert {"a photo of a automobile", "a photo of an automobile"} <= {t for t, _ in said}


def test_true_pairs_are_all_matching_captions():
    term, label = torch.tensor([0, 1, 2]), torch.tensor([3, 3, 5])
    true = clip_training.true_pairs(term, label, [(0, 3, False), (0, 3, True), (2, 5, False), (2, 3, False)])
    assert true.tolist() == [[True, True, False, False], [False, True, False, False], [False, False, True, False]]


def test_contrast_equals_a_calculation_by_hand():
    """Two pictures, the first matches both captions: rows (1/2)(-ln p11 - ln p12) and -ln p22, columns alike."""
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0]])
    true = torch.tensor([[True, True], [False, True]])
    r1, r2 = math.log(math.e**2 + math.e), math.log(1 + math.e**3)
    c1, c2 = math.log(math.e**2 + 1), math.log(math.e + math.e**3)
    rows = ((r1 - 2 + r1 - 1) / 2 + (r2 - 3)) / 2
    columns = ((c1 - 2) + (c2 - 1 + c2 - 3) / 2) / 2
    assert float(clip_training.contrast(logits, true)) == pytest.approx((rows + columns) / 2, rel=1e-5)
    one = torch.eye(2, dtype=torch.bool)  # one caption a picture: CLIP's own loss
    want = (torch.nn.functional.cross_entropy(logits, torch.arange(2)) + torch.nn.functional.cross_entropy(logits.T, torch.arange(2))) / 2
    assert float(clip_training.contrast(logits, one)) == pytest.approx(float(want), rel=1e-6)


def test_used_tokens_are_those_of_the_captions():
    _, tokenizer = build_model(clip_training.model_config((8, 16), (0, 1), 8, 16, 1))
    made = captions.Captioner(("container ship", "tabby cat"), CIFAR10_CLASSES, tokenizer, 24, 0)
    known = made.used_tokens({(0, 8), (1, 3)})
    tokens, said = made(torch.tensor([1, 1, 0]), torch.tensor([3, 3, 8]))
    assert len(tokens) == len(said) <= 3 and tokens.shape[1] == 24
    assert (tokens.argmax(1) == (tokens != 0).sum(1) - 1).all()  # the end token is the largest and the last: open_clip reads there
    for _ in range(50):
        tokens, _ = made(torch.tensor([1, 0]), torch.tensor([3, 8]))
        ours = tokens[(tokens != captions.UNKNOWN) & (tokens != 0)]
        assert known[ours].all()
    assert not known[captions.UNKNOWN] and not known[tokenizer.encode("red")].all() and known[tokenizer.encode("boat")].all()


def test_training_from_the_command_line(train_clip, data, tmp_path, capsys):
    out = tmp_path / "clip"
    argv = ["--tiny", "--steps", "60", "--batch", "16", "--lr", "0.01", "--every", "20", "--precision", "fp32", "--device", "cpu"]
    assert train_clip.main([*argv, "--snapshot-minutes", "0.0001", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "60 images, 2 terms" in printed and "zero-shot accuracy" in printed
    facts, card = json.loads((out / "clip.json").read_text()), (out / "README.md").read_text()
    metrics = {m["name"]: m for m in facts["metrics"]}
    # bright cats and dark ships are classified correctly; the eight unknown words are equally near to both
    assert facts["real"]["by_class"][3]["matching"] == 1.0 and facts["real"]["by_class"][8]["intended"] > 0.4
    assert metrics["zero-shot accuracy"]["n"] == 60 and f"{metrics['zero-shot accuracy']['value']:.2%}" in card
    assert metrics["fine term in the first five"]["value"] == 1.0  # there are two
    assert "It knows CIFAR-10 only" in card and "was trained from random weights" in card
    assert facts["real"]["by_class"][3]["n"] + facts["real"]["by_class"][8]["n"] == 60
    clip = open_clip_directory(out)
    pictures = captions.load_captioned("test")
    similarity = clip.images(pictures.data.images) @ clip.text(["a photo of a cat", "a photo of a ship"]).T
    assert (similarity.argmax(1) == (pictures.data.labels == 8)).all()
    assert clip.unknown_words("a red tabby cat") == ["red"]
    assert torch.allclose(clip.text(["a cat"]), open_clip_directory(out).text(["a cat"]))
    assert any(open_clip_directory(s).name for s in (out / "snapshots").iterdir())
    # the same seed, the same weights; and training continues from a saved CLIP
    assert train_clip.main([*argv[:1], "--steps", "2", *argv[3:], "--out", str(tmp_path / "a")]) == 0
    assert train_clip.main([*argv[:1], "--steps", "2", *argv[3:], "--out", str(tmp_path / "b")]) == 0
    assert open_clip_directory(tmp_path / "a").digest == open_clip_directory(tmp_path / "b").digest
    assert train_clip.main([*argv[:1], "--steps", "1", *argv[3:], "--init", str(out), "--out", str(tmp_path / "c")]) == 0
    again = open_clip_directory(tmp_path / "c")
    assert float((again.text(["a cat"]) @ clip.text(["a cat"]).T)[0, 0]) > 0.99


def test_an_image_tower_that_starts_from_a_classifier(train_clip, data, tmp_path, capsys):
    """Locked for the whole budget, it equals the classifier bit for bit; its card says that the two are not independent."""
    config = resnet.ClassifierConfig(data="cifar10", classes=CIFAR10_CLASSES, widths=(8, 16), blocks=(0, 1))
    torch.manual_seed(3)
    network = resnet.ResNet(config)
    classifier.save_classifier(tmp_path / "judge", config, network)
    common = ["--tiny", "--steps", "3", "--batch", "16", "--precision", "fp32", "--device", "cpu", "--init-image", str(tmp_path / "judge")]
    assert train_clip.main([*common, "--locked", "1", "--out", str(tmp_path / "locked")]) == 0
    assert train_clip.main([*common, "--locked", "0", "--out", str(tmp_path / "free")]) == 0
    want = classifier.load_classifier(tmp_path / "judge").network.stem.weight
    assert torch.equal(open_clip_directory(tmp_path / "locked").model.visual.trunk.stem.weight, want)
    assert not torch.equal(open_clip_directory(tmp_path / "free").model.visual.trunk.stem.weight, want)
    assert "The two networks are therefore not independent" in (tmp_path / "locked" / "README.md").read_text()
    wrong = resnet.ClassifierConfig(data="cifar10", classes=CIFAR10_CLASSES, widths=(8, 20), blocks=(0, 1))
    classifier.save_classifier(tmp_path / "judge", wrong, resnet.ResNet(wrong))
    assert train_clip.main([*common, "--out", str(tmp_path / "no")]) == 2
    assert "misshapen" in capsys.readouterr().err and not (tmp_path / "no").exists()


def test_values_out_of_range_are_refused(train_clip, capsys):
    for bad in (["--minutes", "0"], ["--steps", "3", "--batch", "1"], ["--steps", "3", "--lr", "7"]):
        with pytest.raises(SystemExit):
            train_clip.main([*bad, "--out", "/nonexistent"])
    error = capsys.readouterr().err
    assert "give a budget" in error and "batch is 1;" in error and "lr is 7.0;" in error


def test_the_weights_take_less_than_fifteen_megabytes():
    model, _ = build_model(json.loads(json.dumps(clip_training.model_config())))
    assert 2 * sum(p.numel() for p in model.parameters()) < 15e6
    assert importlib.util.find_spec("timm")
