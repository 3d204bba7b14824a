"""The benchmark runs, counts what it should, and both sides of its comparison compute the same."""

from __future__ import annotations

import argparse
import importlib.util
import json

import pytest

from ddpm_app import bench


def arguments(*flags):
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    return parser.parse_args(["--device", "cpu", *flags])


def test_quick(capsys):
    """In float32, so that ours and diffusers' results agree to rounding after their two steps."""
    assert bench.run(arguments("--quick", "--json", "--precision", "fp32")) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(row["preset"], row["batch"]) for row in facts["networks"]] == [("tiny", 1), ("tiny", 2)]
    for row in facts["networks"]:
        assert row["images_per_s"] > 0 and 0 < row["share"] < 2
        assert row["share"] == pytest.approx(row["images_per_s"] * row["gflop_per_image"] / max(facts["matmul"].values()))
    if importlib.util.find_spec("diffusers"):
        d = facts["diffusers"]
        assert d["difference"] < 1e-3 and d["ratio"] == pytest.approx(d["ours"] / d["theirs"]) and d["ours"] > 0
    text = bench.table(facts)
    assert "tiny" in text and "GFLOP/s" in text and "fp32" in text


def test_without_diffusers(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert bench.run(arguments("--quick")) == 0
    assert "diffusers: not installed" in capsys.readouterr().out


def test_bad_arguments():
    with pytest.raises(ValueError, match="rounds is 0"):
        bench.run(arguments("--rounds", "0"))
    with pytest.raises(SystemExit):
        arguments("--precision", "fp8")
