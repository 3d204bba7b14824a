"""The files of the page's components: NAME.py has a Component, with NAME.html, NAME.css and NAME.js beside it."""

import importlib
import inspect
from pathlib import Path

import pytest

from ddpm_app.ui import components
from ddpm_app.ui.components.base import Component

FOLDER = Path(components.__file__).parent
SCRIPTS = sorted(p.stem for p in FOLDER.glob("*.js") if p.stem != "base")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_belongs_to_one_component_with_a_template_and_a_style(name):
    """A component may have further scripts, whose names begin with its own: watch_track.js belongs to watch."""
    name = next((n for n in SCRIPTS if name.startswith(f"{n}_") and (FOLDER / f"{n}.py").is_file()), name)
    module = importlib.import_module(f"ddpm_app.ui.components.{name}")
    classes = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__ and issubclass(c, Component)]
    assert len(classes) == 1
    missing = [suffix for suffix in (".html", ".css", ".js") if not (FOLDER / f"{name}{suffix}").is_file()]
    assert not missing


def test_every_template_and_style_belongs_to_a_module():
    files = [p for p in FOLDER.iterdir() if p.suffix in (".html", ".css")]
    assert len(SCRIPTS) >= 9 and files
    assert [p.name for p in files if not p.with_suffix(".py").is_file()] == []
