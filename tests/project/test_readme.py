"""README names what exists, and its numbers are those stored with the models."""

import importlib
import re
from pathlib import Path

import pytest

from ddpm_app.checkpoints.checkpoint import open_checkpoint
from ddpm_app.checkpoints.measurements import card_rows
from ddpm_app.cli import main as cli
from ddpm_app.diffusion.denoiser import ROWS
from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.diffusion.schedules import GRIDS, SCHEDULES
from ddpm_app.networks.unet import PRESETS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
SHIPPED = sorted(p.parent for p in (ROOT / "checkpoints").glob("*/config.json"))


@pytest.mark.parametrize("names", [SAMPLERS, SCHEDULES, GRIDS, ROWS, PRESETS], ids=["samplers", "schedules", "grids", "rows", "presets"])
def test_every_name_is_there(names):
    missing = [n for n in names if not re.search(rf"(?<![\w-]){re.escape(n)}(?![\w-])", README)]
    assert missing == []


def test_every_file_has_its_line():
    files = [f"ddpm_app/{p.name}" for p in (ROOT / "ddpm_app").glob("*.py") if p.name != "__init__.py"]
    files += [f"train/{p.name}" for p in (ROOT / "train").glob("*.py")]
    assert [f for f in files if f"`{f}`" not in README] == []


def test_every_file_named_exists():
    named = re.findall(r"`((?:ddpm_app|train|tests|checkpoints)/[\w./-]+)`", README)
    assert len(named) > 20 and [n for n in named if not (ROOT / n).exists()] == []


def test_flags_in_readme_exist(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "train"))
    texts = {}
    for line in re.findall(r"^    python ((?:-m ddpm_app \w+|train/\w+\.py) .*)$", README, re.M):
        words = line.partition("#")[0].split()
        if words[0] == "-m":
            call, command = cli.main, words[2 : 4 if words[2] == "toy" else 3]
        else:
            call, command = importlib.import_module(Path(words[0]).stem).main, []
        if (key := (call, *command)) not in texts:
            with pytest.raises(SystemExit):
                call([*command, "--help"])
            texts[key] = capsys.readouterr().out
        assert [w for w in words if w.startswith("--") and w not in texts[key]] == [], line
    assert len(texts) > 10


@pytest.mark.parametrize("model", SHIPPED, ids=lambda p: p.name)
def test_the_numbers_of_shipped_models_are_theirs(model):
    metrics = card_rows(open_checkpoint(model))
    card = (model / "README.md").read_text()
    assert metrics and all(m["protocol"] for m in metrics)
    for m in metrics:
        assert f"{m['value']:.4g}" in card, m["name"]
        assert f"{m['value']:.3g}" in README, (model.name, m["name"], m["value"])


def test_shards_stay_below_what_a_space_takes():
    assert [p for p in (ROOT / "checkpoints").rglob("*") if p.is_file() and p.stat().st_size > 10_000_000] == []


def test_no_python_file_is_longer_than_350_lines():
    long = [p for folder in ("ddpm_app", "train", "tests") for p in (ROOT / folder).rglob("*.py") if len(p.read_text().splitlines()) > 350]
    assert [p.name for p in long if p.name not in ("test_browser.py",)] == []
