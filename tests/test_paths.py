"""paths: one reader of the environment; an empty variable counts as unset, the same for every caller."""

from __future__ import annotations

from pathlib import Path

import pytest

from ddpm_app import paths
from ddpm_app.studio.studio import Studio
from ddpm_app.training import runs


@pytest.mark.parametrize("value", [None, ""])
def test_unset_and_empty_mean_the_default(monkeypatch, value):
    for name in ("DDPM_DATA", "DDPM_RUNS", "DDPM_CACHE"):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    home = Path.home() / ".cache" / "ddpm-studio"
    assert paths.runs_dir() == paths.PROJECT / "runs"
    assert paths.model_roots() == [paths.PROJECT / "checkpoints", paths.PROJECT / "runs"]
    assert paths.data_roots() == [paths.PROJECT / "data", paths.PROJECT.parent / "shared" / "data"]
    assert paths.download_dir() == home
    assert paths.cache_dir("hub") == home / "hub" and paths.cache_dir("evaluation") == home / "evaluation"


def test_each_variable_moves_what_it_names(monkeypatch, tmp_path):
    for name in ("DATA", "RUNS", "CACHE"):
        monkeypatch.setenv(f"DDPM_{name}", str(tmp_path / name))
    assert paths.runs_dir() == tmp_path / "RUNS" and paths.model_roots()[1] == tmp_path / "RUNS"
    assert paths.data_roots()[0] == tmp_path / "DATA" and paths.download_dir() == tmp_path / "DATA"
    assert paths.cache_dir("hub") == tmp_path / "CACHE" / "hub"
    assert paths.cache_dir("evaluation") == tmp_path / "CACHE" / "evaluation"


def test_the_page_and_the_runs_command_look_in_the_same_folder(monkeypatch):
    monkeypatch.setenv("DDPM_RUNS", "")
    assert Studio(device="cpu").roots[1] == runs.runs_dir() == paths.PROJECT / "runs"


def test_no_other_file_reads_the_variables_or_computes_the_root():
    others = [f for folder in ("ddpm_app", "train") for f in (paths.PROJECT / folder).rglob("*.py") if f.name != "paths.py"]
    assert [str(f) for f in others if '"DDPM_' in f.read_text()] == []
    computed = [
        str(f.relative_to(paths.PROJECT)) for f in others if f.name != "project.py" and "__file__).resolve().parents" in f.read_text()
    ]
    assert computed == []
