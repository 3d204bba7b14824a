"""README and docs/ name what exists, and their numbers are those stored with the models."""

import importlib
import re
from pathlib import Path

import pytest

from ddpm_app.checkpoints.checkpoint import open_checkpoint
from ddpm_app.checkpoints.measurements import card_rows
from ddpm_app.cli import main as cli
from ddpm_app.diffusion.denoiser import PREDICTION_TYPES
from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.diffusion.schedules import GRIDS, SCHEDULES
from ddpm_app.networks.unet_config import PRESETS

ROOT = Path(__file__).resolve().parents[2]
PAGES = {p: p.read_text() for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))}
TEXT = "\n".join(PAGES.values())
SHIPPED = sorted(p.parent for p in (ROOT / "checkpoints").glob("*/config.json"))
TOPS = "ddpm_app|train|tests|checkpoints|docs|data"


@pytest.mark.parametrize(
    "names", [SAMPLERS, SCHEDULES, GRIDS, PREDICTION_TYPES, PRESETS], ids="samplers schedules grids predictions presets".split()
)
def test_docs_name_every_sampler_schedule_grid_and_command(names):
    missing = [n for n in names if not re.search(rf"(?<![\w-]){re.escape(n)}(?![\w-])", TEXT)]
    assert missing == []


def test_every_command_and_script_is_there():
    assert [c for c in cli.COMMANDS if f"python -m ddpm_app {c} " not in TEXT and f"`{c}`" not in TEXT] == []
    helpers = {"project.py"}
    scripts = [p.name for p in (ROOT / "train").glob("*.py") if p.name not in helpers]
    assert len(scripts) > 5 and [s for s in scripts if f"train/{s}" not in TEXT] == []


def test_every_path_named_exists():
    named = set(re.findall(rf"(?<![\w/.-])((?:{TOPS})/[\w./-]*[\w/])", TEXT))
    named -= {"checkpoints/digits"}  # what a documented command writes
    assert len(named) > 40 and [n for n in sorted(named) if not (ROOT / n).exists()] == []


def test_every_link_leads_somewhere():
    broken = []
    for page, text in PAGES.items():
        for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link):
            file = page.parent / target if target else page
            headings = [re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", PAGES.get(file, ""), re.M)]
            if not file.exists() or (anchor and anchor not in headings):
                broken.append(f"{page.name}: {target}#{anchor}")
    assert broken == []


def test_pages_are_short_and_narrow():
    assert len(PAGES[ROOT / "README.md"].splitlines()) <= 120
    assert [f"{p.name}: {line[:60]}" for p, text in PAGES.items() for line in text.splitlines() if len(line) > 200] == []


def test_ci_runs_the_test_command_of_the_readme():
    """Every part of the command stands as a line of .ci/run, in the same order."""
    command = next(line for line in PAGES[ROOT / "README.md"].splitlines() if "&& python -m pytest" in line).split(" && ")
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    places = [lines.index(part.strip()) for part in command]
    assert places == sorted(places)


def test_every_flag_of_a_documented_command_exists(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "train"))
    texts = {}
    for line in re.findall(r"^    python ((?:-m ddpm_app \w+|train/\w+\.py) .*)$", TEXT, re.M):
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
def test_numbers_of_shipped_models_are_those_stored_with_them(model):
    metrics = card_rows(open_checkpoint(model))
    card = (model / "README.md").read_text()
    assert metrics and all(m["protocol"] for m in metrics)
    for m in metrics:
        assert f"{m['value']:.4g}" in card, m["name"]
        assert f"{m['value']:.3g}" in TEXT, (model.name, m["name"], m["value"])


def test_shards_stay_below_what_a_space_takes():
    assert [p for p in (ROOT / "checkpoints").rglob("*") if p.is_file() and p.stat().st_size > 10_000_000] == []
