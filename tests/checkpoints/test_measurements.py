"""Measured numbers: one store for all readers and writers."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest

from ddpm_app.checkpoints import checkpoint as checkpoints
from ddpm_app.checkpoints.facts import model_facts
from ddpm_app.checkpoints.measurements import Measurement, card_rows, copy_measurements, store, stored_measurements
from tests.conftest import make_checkpoint

OLD = {"name": "agreement", "value": 0.5, "n": 10, "protocol": "95 % 0.2 to 0.8", "settings": {"seed": 0}}


@pytest.fixture
def checkpoint(tmp_path):
    """A model whose config.json holds a number that an older version of the program stored."""
    path = make_checkpoint(tmp_path / "model").path
    config = dataclasses.replace(checkpoints.open_checkpoint(path).config, metrics=[OLD])
    (path / "config.json").write_text(config.to_json())
    return checkpoints.open_checkpoint(path)


def measured(value=1.0, **protocol):
    return Measurement("FD-classifier", value, math.nan, {"95 %": [0.1, 0.2], "real test images": 0.05}, {"n": 60} | protocol)


def test_numbers_are_read_from_both_files_and_written_to_one(checkpoint):
    config = (checkpoint.path / "config.json").read_text()
    file = store(checkpoint, measured(1.0), measured(2.0, seed=3))
    assert file == checkpoint.path / "metrics.json" and (checkpoint.path / "config.json").read_text() == config
    rows = stored_measurements(checkpoint)
    assert rows[0] == OLD and [r["value"] for r in rows[1:]] == [1.0, 2.0] and rows[1]["error"] is None
    assert json.loads(file.read_text()) == rows[1:]


def test_a_card_shows_the_newest_number_of_each_protocol(checkpoint):
    store(checkpoint, measured(1.0), measured(2.0, seed=3), measured(4.0))
    rows = card_rows(checkpoint)
    assert rows[0] == OLD and [r["value"] for r in rows[1:]] == [4.0, 2.0]
    assert rows[2]["protocol"] == "95 % 0.1000 to 0.2000; real test images 0.05; n 60, seed 3" and rows[2]["settings"]["seed"] == 3
    assert model_facts(checkpoint)["metrics"] == rows


def test_a_card_shows_no_number_of_other_weights(checkpoint):
    store(checkpoint, measured(images_seen=1), measured(2.0, images_seen=checkpoint.config.images_seen, ema=checkpoint.config.ema))
    assert [r["value"] for r in card_rows(checkpoint)] == [0.5, 2.0] and len(stored_measurements(checkpoint)) == 3


def test_a_shipped_model_gets_the_numbers_of_its_run(checkpoint, tmp_path):
    config = checkpoint.config
    store(checkpoint, measured(images_seen=1), measured(2.0, images_seen=config.images_seen, ema=config.ema))
    path = make_checkpoint(tmp_path / "shipped").path
    (path / "config.json").write_text(dataclasses.replace(config, images_seen=10**6).to_json())
    shipped = checkpoints.open_checkpoint(path)
    store(shipped, measured(3.0))
    copy_measurements(checkpoint, shipped)
    assert [(r["value"], r["settings"]["images_seen"]) for r in card_rows(shipped)[1:]] == [(2.0, 10**6)]


@pytest.mark.parametrize(
    "content", [b"\xff\xfe\x00", b"", b"[", b"{}", b'[{"name": "x", "val', b'{"a": 1}', b"[3]", b'[{"name": [], "value": 1}]']
)
def test_a_damaged_metrics_file_is_never_overwritten(checkpoint, content):
    file = checkpoint.path / "metrics.json"
    file.write_bytes(content)
    for call in (stored_measurements, lambda c: store(c, measured())):
        with pytest.raises(ValueError, match="move it away first"):
            call(checkpoint)
        assert file.read_bytes() == content
    facts = model_facts(checkpoint)
    assert facts["metrics"] == [OLD] and "move it away first" in facts["metrics_error"]


def test_a_metrics_file_of_odd_values_gives_a_card(checkpoint):
    (checkpoint.path / "metrics.json").write_text(
        '[{"name": "x", "value": "?", "protocol": {"n": []}, "detail": {"95 %": ["a"], "real test images": {}}}]'
    )
    assert card_rows(checkpoint)[1] == {"name": "x", "value": "?", "protocol": "n []", "settings": {"n": []}}
