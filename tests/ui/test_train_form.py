"""The Train tab's form: settings that have no control, and a fork that keeps all settings of a run."""

import dataclasses
import json

import gradio as gr
import pytest

from ddpm_app.cli.train import parse
from ddpm_app.studio.studio import Studio
from ddpm_app.training import runs
from ddpm_app.training.config import TrainConfig
from ddpm_app.ui.forms.training import FURTHER, Form, further, further_text
from ddpm_app.ui.views.train import build


def test_further_settings_are_read_and_written():
    text = "--T 200 --flip no --label-dropout 0 --averages '0.05, 0.2'"
    settings = further(text)
    assert settings == {"T": 200, "flip": "no", "label_dropout": 0.0, "averages": "0.05, 0.2"}
    assert further(further_text({**dataclasses.asdict(TrainConfig(minutes=1)), **settings})) == settings
    assert further("") == {} and further_text({}) == ""


@pytest.mark.parametrize(
    "text, says",
    [
        ("--T", "--T: expected one argument"),
        ("--T x", "invalid int value: 'x'; --T, --weight-decay"),
        ("--flip maybe", "unknown flip 'maybe'"),
        ("--batch 3", "unrecognized arguments: --batch 3"),
        ("--label 0.2", "unrecognized arguments: --label"),
        ("T 3", "unrecognized arguments: T 3"),
        ("--help", "unrecognized"),
        ("--flip 'no", "quotation"),
    ],
)
def test_a_wrong_further_setting_raises_a_sentence(text, says):
    with pytest.raises(ValueError, match=says):
        further(text)


def test_wrong_settings_show_their_error_in_the_command_field(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_RUNS", str(tmp_path))
    for name in ("../x", "/tmp/x", "a b"):
        with pytest.raises(ValueError, match="cannot name a run"):
            runs.check_name(name)
    with gr.Blocks() as page:
        build(Studio([tmp_path], device="cpu"))
    shown = next(f.fn for f in page.fns.values() if f.fn.__name__ == "command_of")
    fields = {c.label: c for c in page.blocks.values() if isinstance(c, gr.components.FormComponent) and getattr(c, "label", None)}
    values = {c: getattr(c, "value", None) for c in page.blocks.values() if isinstance(c, gr.components.Component)}
    assert shown(values).startswith("python train/train_unet.py --data mnist")
    for label, value, says in (
        ("Name", "../x", "'../x' cannot name a run"),
        ("Budget, minutes", None, "minutes is empty"),
        ("Budget, minutes", -3, "give a budget"),
        ("Budget, minutes", float("nan"), "give a budget"),
        ("Batch", float("inf"), "# "),
        ("Batch", 1.5, "batch is 1.5; a whole number"),
        ("Batch", None, "batch is empty; a whole number"),
        ("Further settings", "--T 0", "T is 0; a schedule has 2"),
        ("Further settings", "--dropout 3", "dropout is 3.0; a number from 0 to below 1"),
        ("Further settings", "--device tpu", "auto, cpu, cuda"),
        ("Seed", 1e300, "# "),
    ):
        text = shown({**values, fields[label]: value})
        assert text.startswith("# ") and says in text, (label, value, text)


def test_the_form_has_every_setting():
    on_form = {"data", "preset", "prediction_type", "schedule", "weight", "minutes", "batch", "lr", "warmup", "ema", "seed", "image_size"}
    assert on_form | set(FURTHER) | {"images"} == {f.name for f in dataclasses.fields(TrainConfig)}


def test_a_fork_has_all_of_the_runs_settings(tmp_path):
    folder, settings = (
        tmp_path / "run",
        dataclasses.asdict(TrainConfig(data="photos.npz", images=6000, T=200, flip="no", label_dropout=0.0)),
    )
    (folder / "snapshots" / "0000000640").mkdir(parents=True)
    (folder / "snapshots" / "0000000640" / "config.json").write_text("{}")
    (folder / "config.json").write_text(json.dumps({"training": settings}))
    (folder / "job.json").write_text(json.dumps({"cwd": str(tmp_path), "argv": ["--data", "x", "--marks", "4"]}))
    (tmp_path / "photos.npz").write_bytes(b"")
    run = runs.Run(folder)
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
    assert form.extra(values) == ["--validations", "4"]


@pytest.mark.parametrize("preset, lr", [("tiny", 1.6e-3), ("small", 8e-4), ("ddpm", 2e-4)])
def test_the_default_learning_rate_depends_on_the_network(preset, lr):
    """The form, the shown command and the script must mean the same by a command without --lr."""
    argv = runs.flags({"data": "digits", "preset": preset, "minutes": 1.0, "lr": lr}, "runs/x")
    assert "--lr" not in argv and parse(argv)[0].lr == lr
    argv = runs.flags({"data": "digits", "preset": preset, "minutes": 1.0, "lr": 5e-4}, "runs/x")
    assert parse(argv)[0].lr == 5e-4
