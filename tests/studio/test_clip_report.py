"""CLIP's scores of images: classes from saved PNGs, .npz files and folders; scores of real images; the command label."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_app import __main__, paths
from ddpm_app.classifiers import clip as clip_labels
from ddpm_app.classifiers.clip import build_model, open_clip_directory, save_clip_directory
from ddpm_app.classifiers.clip_scores import class_prompts
from ddpm_app.images.datasets import CIFAR10_CLASSES
from ddpm_app.studio import clip_report, exports
from ddpm_app.studio.clip_report import read_pictures, report
from ddpm_app.studio.studio import Request
from ddpm_app.ui.components import clip_table
from tests.classifiers.test_clip import PIXELS, TINY

pytest.importorskip("open_clip")


@pytest.fixture(scope="module")
def shipped(tmp_path_factory):
    torch.manual_seed(0)
    model, _ = build_model(json.loads(json.dumps(TINY)))
    card = {"data": "cifar10", "real": {"n": 10000, "average_top1": 0.9, "matching": 0.91, "intended": 0.88, "by_class": []}}
    place = tmp_path_factory.mktemp("clip") / "cifar10"
    save_clip_directory(place, model, TINY, PIXELS, card)
    return place


@pytest.fixture(autouse=True)
def use_it(shipped, monkeypatch, tmp_path):
    monkeypatch.setattr(clip_labels, "SHIPPED", shipped)
    monkeypatch.setenv("DDPM_DATA", str(tmp_path / "nowhere"))
    monkeypatch.setattr(paths, "data_roots", lambda: [tmp_path / "data"])
    clip_labels._LOADED.clear()
    clip_report._REAL.clear()


def picture(seed=0, size=16):
    return np.random.default_rng(seed).integers(0, 256, (3, size, size), dtype=np.uint8)


def ours(label, seed=0, checkpoint="cifar10-random"):
    return exports.image_png(picture(seed), Request(checkpoint=checkpoint), 0, label)


def plain(seed=0, size=16):
    out = io.BytesIO()
    Image.fromarray(picture(seed, size).transpose(1, 2, 0)).save(out, "PNG")
    return out.getvalue()


def test_saved_pngs_keep_their_class(studio):
    pictures = read_pictures([("a", ours(3)), ("b", ours(-1, 1)), ("c", plain(2)), ("d", ours(7, 3, "mnist-random"))], None, studio)
    assert pictures.images.shape == (4, 3, 16, 16) and pictures.classes == CIFAR10_CLASSES and pictures.data == "random"
    assert pictures.labels.tolist() == [3, -1, -1, -1]  # the digit 7 is not one of the first image's classes
    assert (pictures.images[0] == torch.from_numpy(picture(0))).all()


def test_unreadable_images_are_left_out_with_a_note(studio):
    pictures = read_pictures([("good.png", plain()), ("bad.png", b"nonsense"), ("cut.png", plain()[:60])], 32, studio)
    assert len(pictures.images) == 1 and pictures.images.shape[2:] == (32, 32)
    assert pictures.notes[0].startswith("2 of 3 pictures could not be read; bad.png:")
    with pytest.raises(ValueError, match="none of the pictures can be read; bad.png"):
        read_pictures([("bad.png", b"nonsense")], 32, studio)
    with pytest.raises(ValueError, match="no pictures"):
        read_pictures([], 32, studio)


def test_scores_of_real_images_are_stored_computed_or_missing(studio, shipped, tmp_path):
    clip, images = open_clip_directory(shipped), torch.from_numpy(np.stack([picture(k) for k in range(4)]))
    made = clip_report.Pictures(images, torch.tensor([0, 1, 2, -1]), CIFAR10_CLASSES, "cifar10")
    r = report(clip, made, class_prompts(CIFAR10_CLASSES))
    assert r.real["matching"] == 0.91 and "all 10,000 real test images" in r.real["source"] and r.scores.judged == 3
    without_real = report(clip, made, ["a cat", "a ship"])
    assert without_real.real is None and "not on this machine" in without_real.why
    assert report(clip, clip_report.Pictures(images, torch.full((4,), -1)), ["a cat"]).real is None
    (tmp_path / "data").mkdir()
    real = np.stack([picture(100 + k, 32) for k in range(12)]).transpose(0, 2, 3, 1)
    np.savez(tmp_path / "data" / "cifar10-test.npz", arr_0=real, arr_1=np.arange(12) % 10)
    monkey = pytest.MonkeyPatch()
    monkey.setenv("DDPM_DATA", str(tmp_path / "data"))
    with monkey.context():
        here = report(clip, made, ["a photo of a cat", "a photo of a ship"])
    monkey.undo()
    want = clip.images(torch.from_numpy(real[[3, 8]].transpose(0, 3, 1, 2).copy())) @ clip.text(["a photo of a cat", "a photo of a ship"]).T
    assert here.real["by_class"][3]["intended"] == pytest.approx(float(want[0, 0]), abs=1e-5)
    assert here.real["by_class"][8]["intended"] == pytest.approx(float(want[1, 1]), abs=1e-5) and here.real["by_class"][0]["n"] == 0


def test_the_page_escapes_prompts_and_shows_every_score(shipped):
    clip = open_clip_directory(shipped)
    made = clip_report.Pictures(
        torch.from_numpy(np.stack([picture(k) for k in range(3)])), torch.tensor([3, 3, 5]), CIFAR10_CLASSES, "mnist"
    )
    r = report(clip, made, ["a photo of a cat", "<script>alert(1)</script> dog", "x"])
    page = clip_table.page(r, ["data:,"] * 3)
    assert "<script>" not in page and "&lt;script&gt;" in page
    assert page.count("<tr><th scope='row'><img") == 3 and page.count("class=best") == 3 and page.count("style='--v:") == 9
    assert "0.2351" in page and "ViT-B/32" in page and "only, not mnist" in page
    best = r.prompts[int(r.scores.best[0])]
    assert f"{float(r.scores.similarity[0].max()):.3f}" in page and clip_table.e(best) in page
    unlabelled = clip_table.page(report(clip, clip_report.Pictures(made.images, torch.full((3,), -1)), ["a", "b"]), ["data:,"] * 3)
    assert (
        "The classes of these images are not known" in unlabelled
        and "How often each prompt is the best" in unlabelled
        and "%" in unlabelled
    )


# -- the command line -----------------------------------------------------------------------------------------------------


def run(capsys, *argv):
    code = __main__.main(["label", "--device", "cpu", *map(str, argv)])
    out, err = capsys.readouterr()
    return code, out, err


def test_label_of_an_npz_with_and_without_labels(capsys, tmp_path, shipped):
    images = np.stack([picture(k, 32) for k in range(30)])
    np.savez(tmp_path / "s.npz", arr_0=images.transpose(0, 2, 3, 1), arr_1=np.arange(30) % 10)
    code, out, _ = run(capsys, "--images", tmp_path / "s.npz", "--json")
    printed = json.loads(out)
    clip = open_clip_directory(shipped)
    similarity = clip.images(torch.from_numpy(images)) @ clip.text(class_prompts(CIFAR10_CLASSES)).T
    assert code == 0 and printed["n"] == 30 == printed["judged"] == len(printed["images"])
    assert printed["average_top1"] == pytest.approx(float(similarity.max(1).values.mean()), abs=1e-5)
    assert printed["matching"] == pytest.approx(float((similarity.argmax(1) == torch.arange(30) % 10).float().mean()))
    assert printed["by_class"][4]["class"] == "deer" and printed["by_class"][4]["n"] == 3 and printed["digest"] == clip.digest
    code, out, _ = run(capsys, "--images", tmp_path / "s.npz")
    assert code == 0 and f"matching accuracy {printed['matching']:.4f}" in out and "a photo of a deer" in out
    np.savez(tmp_path / "m.npz", arr_0=images.transpose(0, 2, 3, 1), arr_1=np.arange(30))
    code, out, err = run(capsys, "--images", tmp_path / "m.npz", "--json")
    assert code == 0 and json.loads(out)["matching"] is None and "label 29, but there are 10 classes" in err
    np.savez(tmp_path / "u.npz", arr_0=images.transpose(0, 2, 3, 1))
    assert json.loads(run(capsys, "--images", tmp_path / "u.npz", "--json")[1])["matching"] is None


def test_label_of_folders(capsys, tmp_path):
    for k, name in enumerate(("fox", "hedgehog")):
        (tmp_path / "set" / name).mkdir(parents=True)
        for j in range(2):
            (tmp_path / "set" / name / f"{j}.png").write_bytes(plain(10 * k + j, 40))
    (tmp_path / "set" / "fox" / "broken.png").write_bytes(b"x")
    code, out, err = run(capsys, "--images", tmp_path / "set", "--json")
    printed = json.loads(out)  # the notes go to stderr
    assert (
        code == 0 and printed["prompts"] == ["a photo of a fox", "a photo of a hedgehog"] and printed["judged"] == 4 and "broken.png" in err
    )
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / "0.png").write_bytes(plain())
    (tmp_path / "p.txt").write_text("a red cat\n\na dog\n")
    code, out, _ = run(capsys, "--images", tmp_path / "flat", "--prompts", tmp_path / "p.txt", "--json")
    assert code == 0 and json.loads(out)["prompts"] == ["a red cat", "a dog"] and json.loads(out)["matching"] is None


@pytest.mark.parametrize(
    "argv, message",
    [
        (["--images", "nowhere.npz"], "an .npz file or a folder"),
        (["--images", "{here}/x.txt"], "an .npz file or a folder"),
        (["--images", "{here}", "--prompts", "{here}/blank.txt"], "there is no prompt"),
        (["--images", "{here}", "--prompts", "{here}/none.txt"], "none.txt: No such file"),
        (["--images", "{here}", "--clip", "ViT-B-32:nope"], "no CLIP is called"),
        (["--images", "{here}"], "no pictures"),
    ],
)
def test_bad_arguments_are_refused(capsys, tmp_path, argv, message):
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "blank.txt").write_text("\n \n")
    code, out, err = run(capsys, *[a.format(here=tmp_path) for a in argv])
    assert code == 2 and message in err and err.count("\n") == 1 and not out
