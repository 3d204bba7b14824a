"""The engine from end to end on small real networks: names, protocols, refusals, resuming; and its command line."""

from __future__ import annotations

import dataclasses
import json
import os
import re

import numpy as np
import pytest
import torch

from ddpm_app import files
from ddpm_app.evaluation import features, protocol, samples
from ddpm_app.evaluation.evaluate import evaluate
from ddpm_app.images.sets import Progress
from ddpm_app.studio.studio import Request, Studio
from tests.evaluation.conftest import MODEL, done, plan

pytestmark = pytest.mark.usefixtures("cache", "no_real_data")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    file = tmp_path_factory.mktemp("reference") / "real.npz"
    np.savez(file, arr_0=np.random.default_rng(0).integers(0, 256, (90, 16, 16, 3), dtype=np.uint8), arr_1=np.arange(90) % 10)
    return str(file)


# -- numbers ----------------------------------------------------------------------------------------------------------------


def test_all_metrics_in_one_evaluation(studio, classifier_folder, model):
    rows, refused, events = done(
        studio, plan(classifier_folder, metrics=("fid", "kid", "is", "prc", "classifier", "neighbours", "bpd-bound"), bits_n=4, draws=2)
    )
    assert refused == {}
    assert set(rows) == {
        "FD-classifier", "FD-classifier-infinity", "KD-classifier", "IS-classifier", "precision-classifier", "recall-classifier",
        "agreement", "confidence", "distance-from-uniform", "calibration-error", "closer-than-real-pixels", "closer-than-real-classifier", "bpd-bound",
    }  # fmt: skip
    p = rows["FD-classifier"].protocol
    assert (p["n"], p["sampler"], p["evaluations"], p["guidance"], p["seed"], p["class"], p["precision"]) == (
        80,
        "ddim",
        2,
        1.0,
        0,
        "all",
        "float32",
    )
    assert p["reference"] == "cifar10 train, 120 images" and len(p["features"]["sha256"]) == 64 and p["images_seen"] == 1234
    assert p["comparable to the literature"].startswith("no: features of the cifar10 classifier") and p["ema"] is not None
    assert {"commit", "software", "weights", "date"} <= set(p)
    reading = rows["confidence"].detail
    assert sum(map(sum, reading["generated"]["confusion"])) == 80 and sum(map(sum, reading["real"]["confusion"])) == 60
    closest = rows["closer-than-real-pixels"].detail["closest"]
    assert len(closest) == 24 and closest == sorted(closest, key=lambda c: c[2])
    assert json.loads(json.dumps([files.plain(dataclasses.asdict(m)) for m in rows.values()], allow_nan=False))
    kinds = [e.what for e in events if isinstance(e, Progress)]
    assert "sampling" in kinds and "classifier features of the reference" in kinds


def test_fid_is_the_frechet_distance_of_the_samples(studio, classifier_folder, model):
    """Against the studio's own pictures and statistics taken here."""
    rows, _, _ = done(studio, plan(classifier_folder))
    pictures, _ = studio.images(Request(MODEL, "all", 80, 1.0, "ddim", 2, seed=0))
    from ddpm_app.classifiers.classifier import load_classifier
    from ddpm_app.evaluation.distances import frechet_distance, statistics

    c = load_classifier(classifier_folder)
    real = protocol.load_data("cifar10", "train").images
    features = c.features(torch.from_numpy(pictures).permute(0, 3, 1, 2).contiguous())
    assert rows["FD-classifier"].value == pytest.approx(frechet_distance(statistics(features), statistics(c.features(real))), rel=1e-6)


def test_three_seeds_give_a_spread(studio, classifier_folder, model):
    rows, _, _ = done(studio, plan(classifier_folder, seeds=3))
    alone = [done(studio, plan(classifier_folder, seed=80 * k))[0]["FD-classifier"].value for k in range(3)]
    m = rows["FD-classifier"]
    assert (
        m.detail["seeds"] == pytest.approx(alone)
        and m.value == pytest.approx(np.mean(alone))
        and m.error == pytest.approx(np.std(alone, ddof=1))
    )
    assert m.protocol["seeds"] == 3 and len(set(alone)) == 3


def test_images_from_a_file_are_measured(studio, classifier_folder, model, reference, tmp_path):
    rows, refused, events = done(studio, plan(classifier_folder, images=reference, against=reference, metrics=("fid", "classifier")))
    assert rows["FD-classifier"].value == pytest.approx(0, abs=1e-4) and rows["agreement"].detail["n"] == 90
    assert rows["FD-classifier"].protocol["reference"] == "real.npz, 90 images" and rows["FD-classifier"].protocol["images"] == "real.npz"
    assert not any(e.what == "sampling" for e in events if isinstance(e, Progress))
    with np.load(reference) as z:
        np.savez(tmp_path / "plain.npz", arr_0=z["arr_0"], arr_1=np.full(90, -1))  # as `sample --label none` writes it
    rows, _, _ = done(studio, plan(classifier_folder, images=str(tmp_path / "plain.npz"), metrics=("classifier",)))
    assert set(rows) == {"confidence", "distance-from-uniform"}


# -- stopping and going on ------------------------------------------------------------------------------------------------------


def test_stopped_at_a_batch_and_gone_on_with(studio, classifier_folder, model, cache, monkeypatch):
    sampled_batches = []
    real = Studio.sample
    monkeypatch.setattr(Studio, "sample", lambda self, r, *a, **k: sampled_batches.append((r.seed, r.n)) or real(self, r, *a, **k))
    events = evaluate(studio, plan(classifier_folder, n=150))
    for e in events:
        if e.done == 64:
            break
    next(events)  # the second batch has begun
    events.close()
    assert sampled_batches == [(0, 64), (64, 64)] and [f.name for f in (cache / "samples").glob("*/*")] == ["0000000+64.u8"]
    rows, _, _ = done(studio, plan(classifier_folder, n=150))
    assert sampled_batches[2:] == [(64, 64), (128, 22)]  # the first batch is not computed again
    sampled_batches.clear()
    again, _, _ = done(studio, plan(classifier_folder, n=150, metrics=("fid", "classifier")))
    assert sampled_batches == [] and again["FD-classifier"].value == rows["FD-classifier"].value
    done(studio, plan(classifier_folder, n=128))
    assert sampled_batches == []  # image i does not depend on n
    for file in (cache / "samples").glob("*/0000064+64.u8"):
        file.write_bytes(file.read_bytes()[:-1])
    mended, _, _ = done(studio, plan(classifier_folder, n=150))
    assert sampled_batches == [(64, 64)] and mended["FD-classifier"].value == rows["FD-classifier"].value


def test_larger_batches_give_the_same_pictures(studio, model, monkeypatch):
    """As on CUDA: 512 at once, and a folder of its own."""

    def pictures(n):
        events = samples.sampled(studio, Request(MODEL, "all", n, 1.0, "ddim", 2))
        while True:
            try:
                next(events)
            except StopIteration as end:
                return end.value[0]

    small = pictures(150)
    monkeypatch.setattr(samples, "batch_of", lambda studio: 100)
    large = pictures(150)
    assert (small.all().int() - large.all().int()).abs().max() <= 1
    assert torch.equal(large.part(90, 110), large.all()[90:110]) and torch.equal(small.part(60, 130), small.all()[60:130])


def test_other_weights_are_other_samples(studio, model, tmp_path):
    request = Request(MODEL, n=4)
    a = samples.folder_of(studio, request, studio.checkpoint(MODEL))
    assert samples.folder_of(studio, dataclasses.replace(request, n=9), studio.checkpoint(MODEL)) == a
    assert samples.folder_of(studio, dataclasses.replace(request, guidance=3.0), studio.checkpoint(MODEL)) != a
    other = studio.checkpoint("plain-random")
    assert samples.folder_of(studio, request, other) != a


def test_the_oldest_samples_are_removed_above_the_limit(cache):
    for k in range(4):
        folder = cache / "samples" / f"old{k}"
        folder.mkdir(parents=True)
        (folder / "0000000+1.u8").write_bytes(bytes(1000))
        os.utime(folder, (k, k))
    samples.make_room(cache / "samples" / "old0", most=2500)
    assert sorted(p.name for p in (cache / "samples").iterdir()) == ["old0", "old3"]


# -- what bad input gets ----------------------------------------------------------------------------------------------------------


def refused(studio, plan):
    rows, says, _ = done(studio, plan)
    assert all("\n" not in s for s in says.values())
    return set(rows), says


def test_a_reference_of_another_kind(studio, classifier_folder, model, tmp_path):
    np.savez(tmp_path / "big.npz", arr_0=np.zeros((9, 32, 32, 3), np.uint8))
    np.savez(tmp_path / "grey.npz", arr_0=np.zeros((9, 16, 16, 1), np.uint8))
    np.savez(tmp_path / "float.npz", arr_0=np.full((9, 16, 16, 3), np.nan))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "big.npz").read_bytes()[:200])
    for name, word in (
        ("big", "has images (3, 32, 32)"),
        ("grey", "has images (1, 16, 16)"),
        ("float", "uint8"),
        ("cut", "not a readable"),
        ("none", "no data set"),
    ):
        rows, says = refused(
            studio, plan(classifier_folder, metrics=("fid", "kid", "is", "classifier"), against=str(tmp_path / f"{name}.npz"))
        )
        assert word in says["fid"] and says["fid"] == says["kid"]
        assert {"IS-classifier", "agreement"} <= rows


def test_fewer_samples_than_dimensions(studio, classifier_folder, model):
    rows, says = refused(studio, plan(classifier_folder, n=12, metrics=("fid", "classifier", "kid")))
    assert says == {"fid": "a Frechet distance in 12 feature dimensions needs more than 12 samples; there are 12"}
    assert {"agreement", "KD-classifier"} <= rows
    rows, _, _ = done(studio, plan(classifier_folder, n=20))
    assert "FD-classifier-infinity" not in rows and "needs 39 samples" in rows["FD-classifier"].detail["extrapolation"]


def test_missing_feature_networks_are_refusals(studio, classifier_folder, model, monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(features, "reachable", lambda url: False)
    both = plan(
        classifier_folder, metrics=("fid", "is", "classifier", "clip"), features=("classifier", "inception"), clip="ViT-B-33:openai"
    )
    rows, says = refused(studio, both)
    assert {"FD-classifier", "IS-classifier", "agreement"} <= rows
    assert "does not answer" in says["fid"] and "does not answer" in says["is"] and "ViT-B-32" in says["clip"]
    rows, says = refused(
        studio, dataclasses.replace(both, classifier=str(tmp_path), metrics=("fid", "classifier", "bpd-bound"), bits_n=2, draws=1)
    )
    assert "no classifier" in says["classifier"] and rows == {"bpd-bound"}


def test_a_model_that_gives_nan(studio, classifier_folder, model):
    real = Studio.denoiser

    class Broken(Studio):
        def denoiser(self, checkpoint):
            inner = real(self, checkpoint)
            wrapped = lambda x, *a: inner(x, *a) * float("nan")  # noqa: E731
            wrapped.schedule, wrapped.network = inner.schedule, inner.network
            return wrapped

    with pytest.raises(ValueError, match="cifar10-random gives infinities or NaN instead of images"):
        list(evaluate(Broken(studio.roots, device="cpu", precision="fp32"), plan(classifier_folder)))


@pytest.mark.parametrize(
    "change, says",
    [
        ({"metrics": ("fld",)}, "did you mean 'fid'"),
        ({"metrics": ()}, "no metric"),
        ({"features": ("inceptoin",)}, "did you mean 'inception'"),
        ({"seeds": 0}, "1 to 20"),
        ({"n": 1}, "at least 2 images"),
        ({"draws": 0}, "1 or more"),
    ],
)
def test_bad_plans_are_refused(classifier_folder, change, says):
    with pytest.raises(ValueError, match=says):
        plan(classifier_folder, **change)


# -- the file and the command line ------------------------------------------------------------------------------------------------


def test_the_command_line_prints_and_keeps(shell, studio, model):
    code, out, err = shell("--checkpoint", model, "--metrics", "fid,classifier", "--n", "60", "--features", "classifier", "--write")
    assert re.search(r"sampling \d+\.\d s, everything else \d+\.\d s", err)
    assert code == 0 and out.startswith("FD-classifier ") and "comparable to the literature: no: " in out and "agreement" in out
    rows = json.loads((studio.checkpoint(model).path / "metrics.json").read_text())
    assert [r["name"] for r in rows][:2] == ["FD-classifier", "FD-classifier-infinity"] and rows[0]["error"] is None
    code, out, _ = shell("--checkpoint", model, "--metrics", "kid", "--n", "60", "--features", "classifier", "--json", "--write")
    assert code == 0 and json.loads(out)[0]["name"] == "KD-classifier"
    assert len(json.loads((studio.checkpoint(model).path / "metrics.json").read_text())) == len(rows) + 1


@pytest.mark.parametrize(
    "flags, says",
    [
        (["--metrics", "fid"], "give a --checkpoint"),
        (["--checkpoint", MODEL, "--metrics", "fjd"], "did you mean 'fid'"),
        (["--images", "x.npz", "--metrics", "fid", "--write"], "--write needs"),
        (["--images", "x.npz", "--metrics", "fid"], "no data set"),
        (["--checkpoint", "nope-xyz-abc", "--metrics", "fid"], "unknown checkpoint"),
        (["--checkpoint", MODEL, "--metrics", "clip", "--clip", "ViT-B-33:openai", "--n", "4"], "clip: not measured: no CLIP is called"),
    ],
)
def test_one_sentence_and_exit_code_2(shell, flags, says):
    code, out, err = shell(*flags)
    assert code == 2 and says in err and out == ""
