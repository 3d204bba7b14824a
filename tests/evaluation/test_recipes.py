"""The study of recipes: its lines, a trained and measured line, and what a second start of the same command does."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ddpm_app.classifiers.classifier import save_classifier
from ddpm_app.cli import study_recipes
from ddpm_app.evaluation import recipes, recipes_table
from ddpm_app.networks.resnet import ClassifierConfig, ResNet
from ddpm_app.paths import PROJECT
from ddpm_app.training.config import TrainConfig


@pytest.fixture
def flags(tmp_path):
    """A study of seconds: 60 random pictures of two classes, measured by a classifier with random weights."""
    images = np.random.default_rng(0).integers(0, 256, (60, 8, 8, 1), dtype=np.uint8)
    np.savez(tmp_path / "toy.npz", arr_0=images, arr_1=np.arange(60) % 2)
    config = ClassifierConfig("toy", ("0", "1"), 8, 1, widths=(4, 8), blocks=(1, 1))
    torch.manual_seed(0)
    save_classifier(tmp_path / "judge", config, ResNet(config))
    where = ["--classifier", str(tmp_path / "judge"), "--out", str(tmp_path / "runs"), "--table", str(tmp_path / "RECIPES.md")]
    return ["--data", str(tmp_path / "toy.npz"), "--batch", "4", "--n", "8", "--evaluations", "2", "--device", "cpu", *where]


def test_lines_change_one_factor_at_a_time():
    default = TrainConfig(minutes=1, lr=8e-4)
    by_name = {line.name: line for line in recipes.lines(default)}
    assert len(by_name) == 16 and len({line.trained for line in by_name.values()}) == 13
    cross = {(c.get("prediction_type", "v"), c.get("schedule", "cosine")) for c in (line.changes for line in by_name.values())}
    assert cross == {(kind, schedule) for kind in ("eps", "v", "edm") for schedule in ("linear", "cosine")}
    for line in by_name.values():
        assert (
            line.factor in ("default", "prediction type x schedule", "batch, lr by its root", "the two that help, together")
            or len(line.changes) == 1
        )
        TrainConfig(**{"minutes": 1, **line.changes})
    assert by_name["batch-128"].changes == {"batch": 128, "lr": pytest.approx(8e-4 * 2**0.5, rel=1e-2)}
    assert by_name["min-snr-5-lr-2"].changes == {"weight": "min-snr-5", "lr": 1.6e-3}
    assert by_name["ema-0.1"].trained == "v-cosine" and by_name["v-cosine"].changes == {}


def test_a_study_of_seconds(tmp_path, flags, capsys):
    flags += ["--seconds", "1.5"]
    assert study_recipes.main([*flags, "--only", "v-cosine,ema-0.2"]) == 0
    said = capsys.readouterr().out
    one, two = (json.loads((tmp_path / "runs" / f"{name}.json").read_text()) for name in ("v-cosine", "ema-0.2"))
    assert one["images"] == two["images"] > 0 and 0 <= one["agreement"] <= 1
    run = tmp_path / "runs" / "v-cosine"
    state = {k: v + 1 if k.startswith("ema-0.2.") else v for k, v in load_file(run / "state.safetensors").items()}
    save_file(state, run / "state.safetensors")  # one step, where the machine is slow, leaves all averages the same
    for ema, kind in ((0.05, "ema"), (0.2, "ema-0.2")):
        network = recipes.denoiser_of(run, ema, torch.device("cpu")).network.float()
        for k, p in enumerate(network.parameters()):
            torch.testing.assert_close(p, state[f"{kind}.{k}"], rtol=1e-2, atol=1e-3)  # bf16 where the CPU multiplies it
    assert one["protocol"]["n"] == 8 and one["protocol"]["minutes"] == pytest.approx(1.5 / 60)
    text = (tmp_path / "RECIPES.md").read_text()
    assert "| `v-cosine` | nothing |" in text and "| `ema-0.2` | ema 0.2 |" in text and "FD-classifier, n = 8" in text
    assert f"**{min(one['fd'], two['fd']):#.3g}**" in text and f"--minutes {1.5 / 60:g}" in text and "ema-0.2: FD" in said
    assert study_recipes.main([*flags, "--only", "v-cosine,ema-0.2"]) == 0 and "done already" in capsys.readouterr().out
    assert study_recipes.main([*flags, "--list"]) == 0 and "12 trainings" in capsys.readouterr().out
    flags[-1] = "1.6"  # another study must not continue the runs of this one
    assert study_recipes.main([*flags, "--only", "v-cosine"]) == 1 and "other settings" in capsys.readouterr().err


def test_seeds_in_two_phases_beside_an_older_study(tmp_path, flags, capsys):
    (tmp_path / "RECIPES.md").write_text("# Studies\n\n## another, 3 minutes\n\nits table\n")
    flags += ["--seconds", "1", "--only", "v-cosine,ema-0.2", "--seeds", "2"]
    assert study_recipes.main([*flags, "--phase", "judge"]) == 1  # nothing is trained yet
    assert "v-cosine: its training has not finished" in capsys.readouterr().err
    assert study_recipes.main([*flags, "--phase", "train"]) == 0
    assert not (tmp_path / "runs" / "v-cosine.json").exists()
    assert study_recipes.main([*flags, "--phase", "judge"]) == 0
    by_name = {n: json.loads((tmp_path / "runs" / f"{n}.json").read_text()) for n in ("v-cosine", "v-cosine-seed-1", "ema-0.2-seed-1")}
    assert [r["protocol"]["seed"] for r in by_name.values()] == [0, 1, 1]
    assert "--seed 1" in by_name["v-cosine-seed-1"]["command"] and by_name["ema-0.2-seed-1"]["command"] == "of v-cosine-seed-1"
    text = (tmp_path / "RECIPES.md").read_text()
    one, two = (by_name[n]["fd"] for n in ("v-cosine", "v-cosine-seed-1"))
    assert f"{(one + two) / 2:#.3g}" in text and f"({one:#.3g}, {two:#.3g})" in text and text.count("| `v-cosine` |") == 1
    assert (
        text.startswith("# Studies\n\n## another, 3 minutes\n\nits table\n\n## ") and "--phase" not in text and "not finished" not in text
    )
    assert text.count("\n## ") == 2 and "2 seeds" in text and "--seeds 2" in text


def test_a_trial_does_not_write_into_the_shipped_table(tmp_path, flags):
    where = [f for f in flags if f not in ("--table", str(tmp_path / "RECIPES.md"))]
    assert study_recipes.parse([*where, "--seconds", "1"])[0].table == tmp_path / "runs" / "RECIPES.md"
    assert study_recipes.parse([*where, "--minutes", "7"])[0].table == PROJECT / "train" / "RECIPES.md"


def test_a_section_replaces_the_one_with_the_same_title(tmp_path):
    file = tmp_path / "R.md"
    for section in ("## a\n\n1\n", "## b\n\n2\n", "## a\n\n3\n"):
        recipes_table.write_section(file, section)
    assert file.read_text() == recipes_table.TITLE + "\n## a\n\n3\n\n## b\n\n2\n"


def test_wrong_arguments_are_refused(flags, capsys):
    for wrong, says in (
        (["--only", "vv"], "'vv'"),
        (["--seeds", "0"], "--seeds is at least 1"),
        (["--n", "1"], "n from 4"),
        (["--classifier", "nowhere"], "is accepted as a classifier"),
        ([], "budget"),
    ):
        with pytest.raises(SystemExit):
            study_recipes.main([*flags, *(["--seconds", "1"] if wrong else []), *wrong])
        assert says in capsys.readouterr().err
