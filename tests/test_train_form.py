"""The Train tab's form: settings without a control of their own, and a fork that keeps all of a run's."""

import dataclasses
import json

import gradio as gr
import pytest

from ddpm_app import jobs
from ddpm_app.training import TrainConfig
from ddpm_app.ui.train import FURTHER, Form, further, further_text


def test_further_settings_are_read_and_written():
    text = "--T 200 --flip no --label-dropout 0 --averages '0.05, 0.2'"
    found = further(text)
    assert found == {"T": 200, "flip": "no", "label_dropout": 0.0, "averages": "0.05, 0.2"}
    assert further(further_text({**dataclasses.asdict(TrainConfig(minutes=1)), **found})) == found
    assert further("") == {} and further_text({}) == ""


@pytest.mark.parametrize(
    "text, says",
    [
        ("--T", "--T: expected one argument"),
        ("--T x", "invalid int value: 'x'; --T, --weight-decay"),
        ("--flip maybe", "invalid choice: 'maybe'"),
        ("--batch 3", "unrecognized arguments: --batch 3"),
        ("--label 0.2", "unrecognized arguments: --label"),
        ("T 3", "unrecognized arguments: T 3"),
        ("--help", "unrecognized"),
        ("--flip 'no", "quotation"),
    ],
)
def test_a_wrong_further_setting_is_a_sentence(text, says):
    with pytest.raises(ValueError, match=says):
        further(text)


def test_every_setting_has_a_place_on_the_form():
    on_form = {"data", "preset", "row", "schedule", "weight", "minutes", "batch", "lr", "warmup", "ema", "seed", "image_size"}
    assert on_form | set(FURTHER) | {"images"} == {f.name for f in dataclasses.fields(TrainConfig)}


def test_a_fork_has_all_of_the_runs_settings(tmp_path):
    folder, settings = (
        tmp_path / "run",
        dataclasses.asdict(TrainConfig(data="photos.npz", images=6000, T=200, flip="no", label_dropout=0.0)),
    )
    (folder / "snapshots" / "0000000640").mkdir(parents=True)
    (folder / "snapshots" / "0000000640" / "config.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"training": settings}))
    (folder / "job.json").write_text(json.dumps({"cwd": str(tmp_path)}))
    (tmp_path / "photos.npz").write_bytes(b"")
    run = jobs.Run(folder)
    with gr.Blocks():
        form = Form()
    updates = form.from_run(run, run.snapshots()[0].name)
    values = {c: c.value for c in form.fields}
    for c, v in updates.items():
        values[c] = v.value if isinstance(v, gr.components.Component) else v
    got = form.settings(values)
    assert got["data"] == str(tmp_path / "photos.npz"), "as the run saw it, not as the studio would"
    same = {k: v for k, v in settings.items() if k not in ("data", "images", "minutes")}
    assert {k: dataclasses.asdict(TrainConfig(**got))[k] for k in same} == same
