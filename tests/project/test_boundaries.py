"""The shape of the code: packages in their order, what may know what, and which files may exist."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ddpm_app.paths import PROJECT

PACKAGE = PROJECT / "ddpm_app"

# Import order: a package or module imports only from itself and from those before it.
ORDER = (
    "paths files flags images diffusion networks checkpoints training classifiers toy studio bench evaluation cli ui __main__ __init__"
).split()


def name_of(file: Path) -> str:
    """The first part of a file's place in the package: a package's name, or a module's."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(file: Path) -> tuple[set[str], set[str]]:
    """(dotted modules of ddpm_app, top-level names of other packages) that a file imports anywhere, also inside functions."""
    ours, others = set(), set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written in full, from ddpm_app..."
            names = [node.module] if node.module.count(".") > 1 else [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            (ours if name.split(".")[0] == "ddpm_app" else others).add(name)
    return ours, {name.split(".")[0] for name in others}


def graph() -> dict[str, set[str]]:
    """name -> the packages and modules of ddpm_app that it imports."""
    edges: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        targets = {module.split(".")[1] for module in imports(file)[0] if "." in module}
        edges.setdefault(name_of(file), set()).update(targets - {name_of(file)})
    return edges


def modules() -> dict[str, set[str]]:
    """dotted module -> the dotted modules of ddpm_app that it imports, package by package."""
    dotted = {str(f.relative_to(PROJECT).with_suffix("")).replace("/", ".").removesuffix(".__init__"): f for f in PACKAGE.rglob("*.py")}
    edges = {}
    for name, file in dotted.items():
        edges[name] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("ddpm_app"):
                edges[name] |= {f"{node.module}.{a.name}" if f"{node.module}.{a.name}" in dotted else node.module for a in node.names}
            elif isinstance(node, ast.Import):
                edges[name] |= {a.name for a in node.names if a.name in dotted}
    return edges


def test_the_order_names_every_package():
    there = {name_of(f) for f in PACKAGE.rglob("*.py")}
    assert there == set(ORDER)


def test_no_import_runs_upwards():
    wrong = [f"{name} imports {other}" for name, others in graph().items() for other in others if ORDER.index(other) >= ORDER.index(name)]
    assert not wrong


def test_every_module_imported_exists_and_none_in_a_circle():
    edges, state = modules(), {}
    missing = {f"{name} imports {other}" for name, others in edges.items() for other in others if other not in edges}
    assert not missing

    def visit(name, path):
        assert state.get(name) != 1, " -> ".join([*path, name])
        if state.get(name) is None:
            state[name] = 1
            for other in sorted(edges[name]):
                if not name.startswith(other + "."):  # a module of a package whose __init__ re-exports it
                    visit(other, [*path, name])
            state[name] = 2

    for name in edges:
        visit(name, [])


@pytest.mark.parametrize(
    "library, homes",
    [("gradio", {"ui"}), ("argparse", {"cli", "flags"})],
)
def test_which_modules_import_a_library(library, homes):
    knowing = {name_of(f) for f in PACKAGE.rglob("*.py") if library in imports(f)[1]}
    assert knowing <= homes


@pytest.mark.parametrize(
    "place, allowed",
    [
        ("images", {"paths", "files"}),
        ("diffusion", {"images", "flags"}),
        ("networks", {"diffusion", "flags"}),
    ],
)
def test_imports_of_the_lowest_packages(place, allowed):
    """images does not import diffusion; diffusion imports neither files nor networks; networks does not import files."""
    assert graph()[place] <= allowed


def test_a_solver_knows_one_contract_and_one_coordinate():
    ours = modules()["ddpm_app.diffusion.samplers"]
    assert ours <= {"ddpm_app.diffusion.denoiser", "ddpm_app.diffusion.guidance", "ddpm_app.diffusion.schedules"}


def test_the_core_loads_only_what_it_needs():
    """Importing every module outside ui loads neither gradio nor anything else that only some of them need."""
    names = [n for n in modules() if not n.startswith("ddpm_app.ui") and not n.endswith("__main__")]
    code = "import sys, importlib, ddpm_app; assert 'torch' not in sys.modules\n"
    code += f"for name in {names!r}: importlib.import_module(name)\n"
    code += "print([m for m in ('gradio', 'diffusers', 'open_clip', 'playwright', 'torchvision', 'matplotlib', 'torch_fidelity', 'accelerate', 'tensorboard', 'wandb') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_no_file_is_long():
    files = [f for folder in ("ddpm_app", "train", "tests") for f in (PROJECT / folder).rglob("*.py")] + [PROJECT / "app.py"]
    assert len(files) > 20
    long = {str(f.relative_to(PROJECT)): n for f in files if (n := len(f.read_text().splitlines())) > 350}
    assert not long


def test_no_module_is_called_utils_or_helpers():
    allowed = {"base"} if (PACKAGE / "ui" / "components" / "base.py").exists() else set()
    assert not ({f.stem for f in PACKAGE.rglob("*.py")} - allowed) & {"utils", "util", "common", "helpers", "misc"}
