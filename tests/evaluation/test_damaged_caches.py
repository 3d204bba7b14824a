"""Damaged caches and half-known inputs never become a number: they are made again, left out, or refused in a sentence."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ddpm_app.classifiers import metrics
from ddpm_app.cli import main as cli
from ddpm_app.evaluation import samples
from tests.evaluation.conftest import MODEL, done, plan

pytestmark = pytest.mark.usefixtures("cache", "no_real_data")

ASKED = ("fid", "classifier", "neighbours")


def values(rows):
    return {k: m.value for k, m in rows.items()}


@pytest.mark.parametrize("what", ["samples/*/*.u8", "features/*.safetensors"])
@pytest.mark.parametrize("damage", ["zeros", "noise", "half", "nothing", "one bit"])
def test_a_damaged_cache_gives_the_same_numbers(studio, classifier_folder, model, cache, what, damage):
    before = values(done(studio, plan(classifier_folder, n=70, metrics=ASKED))[0])
    files = [f for f in cache.glob(what) if f.is_file()]
    assert len(files) >= 2
    for file in files:
        content = bytearray(file.read_bytes())
        at = len(content) // 2  # behind a header
        if damage == "zeros":
            content[at:] = bytes(len(content) - at)
        elif damage == "noise":
            content[at:] = np.random.default_rng(0).bytes(len(content) - at)
        elif damage == "one bit":
            content[at] ^= 1
        file.write_bytes(content[: {"half": at, "nothing": 0}.get(damage, len(content))])
    assert values(done(studio, plan(classifier_folder, n=70, metrics=ASKED))[0]) == before


def test_features_that_cannot_be_kept_are_numbers_all_the_same(studio, classifier_folder, model, cache, caplog):
    before = values(done(studio, plan(classifier_folder, n=70, metrics=ASKED))[0])
    files = list(cache.glob("features/*.safetensors"))
    for file in files:
        file.unlink()
        file.mkdir()  # a temporary file cannot be renamed over a folder
    assert values(done(studio, plan(classifier_folder, n=70, metrics=ASKED))[0]) == before
    assert len(files) >= 2 and all(f"{file} could not be kept" in caplog.text for file in files)
    assert not list(cache.glob("features/.*"))


def test_a_link_to_nowhere_in_the_cache_stops_nothing(cache):
    keep = cache / "samples" / "mine"
    samples.make_room(keep)
    (keep / "gone").symlink_to("nowhere")
    (cache / "samples" / "lost").symlink_to("nowhere")
    samples.make_room(keep)


def test_images_without_labels_agree_with_nothing(studio, classifier_folder, model, reference_images, tmp_path):
    np.savez(tmp_path / "u.npz", arr_0=reference_images)
    (tmp_path / "flat").mkdir()
    for k, image in enumerate(reference_images[:20]):
        Image.fromarray(image).save(tmp_path / "flat" / f"{k}.png")
    for source in (tmp_path / "u.npz", tmp_path / "flat"):
        assert set(samples.load_images(str(source))[1].tolist()) == {-1}
        rows, _, _ = done(studio, plan(classifier_folder, images=str(source), metrics=("classifier",)))
        assert set(rows) == {"confidence", "distance-from-uniform"}


def test_a_folders_classes_are_found_by_their_names(reference_images, tmp_path, caplog):
    """Two of ten classes in a folder are not the first two."""
    for k, name in enumerate(("Dog", "8", "zebra")):
        (tmp_path / name).mkdir()
        Image.fromarray(reference_images[k]).save(tmp_path / name / "0.png")
    classes = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    assert samples.load_images(str(tmp_path), classes=classes)[1].tolist() == [8, 5, -1]
    assert "no class is called zebra" in caplog.text
    assert samples.load_images(str(tmp_path))[1].tolist() == [0, 1, 2]


@pytest.fixture
def reference_images():
    return np.random.default_rng(0).integers(0, 256, (40, 16, 16, 3), dtype=np.uint8)


def test_a_reference_of_too_few_images_is_refused(studio, classifier_folder, model, reference_images, tmp_path):
    np.savez(tmp_path / "few.npz", arr_0=reference_images[:10])
    rows, refused, _ = done(studio, plan(classifier_folder, against=str(tmp_path / "few.npz"), metrics=("fid",)))
    assert rows == {} and refused["fid"] == "a Frechet distance in 12 feature dimensions needs more than 12 reference images; there are 10"


@pytest.mark.parametrize("flags", [["--write"], ["--seeds", "3"], ["--images", "x.npz"]])
def test_a_sweep_does_not_ignore_what_it_cannot_do(shell, flags):
    code, out, err = shell("--checkpoint", MODEL, "--sweep", "guidance=1", *flags)
    assert code == 2 and out == "" and "no --write, --seeds or --images" in err


def test_the_expected_distance_is_the_binomial_mean():
    for n, k in ((1, 10), (7, 3), (25, 10), (1000, 10)):
        p = 1 / k
        exact = sum(math.comb(n, x) * p**x * (1 - p) ** (n - x) * abs(x / n - p) for x in range(n + 1)) if n < 1000 else None
        got = metrics.expected_distance(n, k)
        assert got == pytest.approx(k / 2 * exact) if exact else got == pytest.approx(0.0378, abs=2e-4)
    assert metrics.expected_distance(1, 10) == pytest.approx(0.9)


def test_ctrl_c_while_it_loads_is_said(monkeypatch, capsys):
    def interrupted(command):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "command_parser", interrupted)
    assert cli.main(["models"]) == 130 and capsys.readouterr().err == "ddpm_app models: stopped\n"


def test_codes_and_paths_say_what_does_not_go_together(roots, tmp_path, monkeypatch, capsys):
    from ddpm_app.studio.studio import Studio

    real = Studio.__init__
    monkeypatch.setattr(Studio, "__init__", lambda self, *a, **kw: real(self, roots, "cpu", "fp32"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    a = str(tmp_path / "a.png")
    assert (
        cli.main(
            ["interpolate", "--way", "ode", "--checkpoint", MODEL, "--images", a, a, "--test", "0", "1", "--out", str(tmp_path / "p.png")]
        )
        == 2
    )
    assert "only one of them is accepted" in capsys.readouterr().err
    code = ["code", "--checkpoint", MODEL, "--image", a, "--states", "3", "--flow", "1", "--steps", "1"]
    assert cli.main([*code, "--json"]) == 0

    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    output = json.loads(capsys.readouterr().out, parse_constant=no_constant)
    assert output["flow"]["standard_error"] is None
    assert cli.main(code) == 0 and "nan" not in capsys.readouterr().out


@pytest.mark.parametrize("where", ["a.png/b.png", "folder.png", "/proc/b.png"])
def test_a_target_that_cannot_be_written_is_said_before_the_work(where, roots, tmp_path, monkeypatch, capsys):
    from ddpm_app.studio.studio import Studio

    if where.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("no /proc here")

    def nothing(self, *a, **kw):
        raise AssertionError("work began")

    monkeypatch.setattr(Studio, "__init__", nothing)
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "folder.png").mkdir()
    a, out = str(tmp_path / "a.png"), str(tmp_path / where)
    for command in (["code", "--image", a], ["interpolate", "--images", a, a], ["noise", "--image", a], ["sample"]):
        assert cli.main([*command, "--out", out]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and str(Path(out).parent if "folder" not in where else "folder.png") in said
