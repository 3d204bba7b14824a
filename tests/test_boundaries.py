"""The shape of the code: what imports what, and how long a file may be."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[1]
PACKAGE = PROJECT / "ddpm_app"

# Reading order: a module imports only from those before it. One that is not named here may import anything it does not make a circle with.
ORDER = (
    "device schedules unet denoiser guidance samplers toy pictures data likelihood coding interpolation distances checkpoints hub classifier noisy_classifier "
    "clip_tower clip_scores clip_labels reading features viz distributed ema trackers train_config training probe bench bench_train jobs posthoc "
    "png_settings requests steering studio exports encode encode_cli clip_report samples protocols picture_metrics evaluation tradeoff history evaluate_cli ui __main__"
).split()
LATE = {("checkpoints", "hub")}  # from_diffusers and to_diffusers, which are asked for under that name: imported when called
WITHOUT_GRADIO = [f.stem for f in sorted(PACKAGE.glob("*.py")) if not f.stem.startswith("__")]


def imports(file: Path) -> tuple[set[str], set[str]]:
    """(modules of ddpm_app, top-level names of other packages) a file imports anywhere, also inside functions."""
    ours, others = set(), set()
    depth = len(file.relative_to(PACKAGE).parts)  # how many dots lead to ddpm_app itself
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            for alias in node.names:
                (ours if alias.name.startswith("ddpm_app.") else others).add(
                    alias.name.split(".")[1 if alias.name.startswith("ddpm_app.") else 0]
                )
        elif isinstance(node, ast.ImportFrom):
            absolute = node.level == 0 and (node.module or "").split(".")[0] == "ddpm_app"
            if node.level == 0 and not absolute:
                others.add(node.module.split(".")[0])
            elif absolute or node.level == depth:
                path = (node.module or "").split(".")[absolute:]
                ours.update([path[0]] if path and path[0] else [a.name for a in node.names])
    return ours - {"__version__"}, others


def graph() -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        name = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found.setdefault(name, set()).update(imports(file)[0] - {name})
    return found


def test_modules_import_only_from_above():
    wrong = [
        f"{name} imports {other}"
        for name, others in graph().items()
        for other in others
        if name in ORDER and other in ORDER and ORDER.index(other) > ORDER.index(name) and (name, other) not in LATE
    ]
    assert not wrong


def test_there_is_no_circle():
    edges = {name: {o for o in others if (name, o) not in LATE} for name, others in graph().items()}
    state: dict[str, int] = {}

    def visit(name, path):
        assert state.get(name) != 1, " -> ".join([*path, name])
        if state.get(name) is None:
            state[name] = 1
            for other in edges.get(name, ()):
                visit(other, [*path, name])
            state[name] = 2

    for name in edges:
        visit(name, [])


def test_every_import_of_ours_exists():
    known = {f.stem for f in PACKAGE.glob("*.py")} | {f.parent.name for f in PACKAGE.glob("*/__init__.py")}
    missing = {f"{name} imports {other}" for name, others in graph().items() for other in others - known}
    assert not missing


def test_only_the_page_knows_gradio():
    for file in PACKAGE.rglob("*.py"):
        if "ui" not in file.relative_to(PACKAGE).parts:
            assert "gradio" not in imports(file)[1], file
    assert {"studio", "exports"} & graph()["ui"]


def test_viz_knows_nothing_of_diffusion():
    assert not graph()["viz"] & {"schedules", "unet", "denoiser", "guidance", "samplers", "training", "checkpoints", "studio"}


@pytest.mark.parametrize("name", ["a solver", "the network"])
def test_what_a_module_need_not_know(name):
    """A solver knows one contract and one coordinate; the network knows nothing of noise schedules."""
    if name == "a solver":
        assert graph()["samplers"] <= {"guidance", "schedules"}
    else:
        assert not graph()["unet"] and not graph()["schedules"] and not graph()["device"]


def test_the_core_loads_no_gradio():
    """Importing every module outside ui loads neither gradio nor anything else that only some of them need."""
    code = "import sys, importlib, ddpm_app; assert 'torch' not in sys.modules\n"
    code += f"for name in {WITHOUT_GRADIO!r}: importlib.import_module('ddpm_app.' + name)\n"
    code += "print([m for m in ('gradio', 'diffusers', 'open_clip', 'playwright', 'torchvision', 'matplotlib', 'torch_fidelity', 'accelerate', 'tensorboard', 'wandb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_file_is_long():
    files = [f for folder in ("ddpm_app", "train", "tests") for f in (PROJECT / folder).rglob("*.py")] + [PROJECT / "app.py"]
    assert len(files) > 20
    long = {str(f.relative_to(PROJECT)): n for f in files if (n := len(f.read_text().splitlines())) > 350}
    assert not long


def test_no_module_without_an_idea():
    assert not {f.stem for f in PACKAGE.rglob("*.py")} & {"utils", "util", "base", "common", "helpers", "misc"}
