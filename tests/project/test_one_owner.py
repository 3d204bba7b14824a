"""Each of these rules is one function of the program. A second definition, by its name or by its error sentence, is an error here."""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

from ddpm_app.paths import PROJECT

# function -> (its file, other names that such a function has had, a part of its error sentence)
OWNERS = {
    "image_shape": ("networks/unet_config.py", ("image_dims", "chw"), None),
    "plain": ("files.py", ("to_plain", "jsonable", "finite_or_none"), None),
    "precision_of": ("evaluation/protocol.py", ("precision_name", "dtype_name"), None),
    "whole": ("flags.py", ("whole_number", "as_whole", "to_whole"), None),
    "check_choice": ("flags.py", ("known", "one_of", "choose_from"), "did you mean"),
    "reachable": ("checkpoints/hub.py", ("answers", "is_reachable"), None),
    "local_data": ("images/datasets.py", ("local_test",), None),
    "wilson_interval": ("classifiers/metrics.py", ("wilson",), "is not a share"),
    "write_atomically": ("files.py", ("atomic_write", "write_whole"), None),
    "cache_dir": ("paths.py", ("cache_folder",), None),
    "runs_dir": ("paths.py", ("runs_folder", "runs_root"), None),
    "read_model": ("checkpoints/weights.py", ("open_model",), None),
}
FILES = sorted((PROJECT / "ddpm_app").rglob("*.py"))


def place(file: Path) -> str:
    return file.relative_to(PROJECT / "ddpm_app").as_posix()


def definitions() -> dict[str, list[tuple[str, str]]]:
    """{name without leading underscores: [(file, name)]} of all functions of modules and classes; local functions are not counted."""
    places = defaultdict(list)
    for file in FILES:
        tree = ast.parse(file.read_text())
        classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
        for node in (n for body in (tree, *classes) for n in body.body):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                places[node.name.lstrip("_")].append((place(file), node.name))
    return places


def strings() -> list[tuple[str, str]]:
    """(file, text) of every string constant, also within f-strings."""
    nodes = ((file, node) for file in FILES for node in ast.walk(ast.parse(file.read_text())))
    return [(place(file), node.value) for file, node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


DEFINITIONS, STRINGS = definitions(), strings()


@pytest.mark.parametrize("name", OWNERS)
def test_a_rule_has_one_function(name):
    owner, other_names, sentence = OWNERS[name]
    found = [definition for n in (name, *other_names) for definition in DEFINITIONS.get(n, [])]
    assert found == [(owner, name)], f"{name} belongs to ddpm_app/{owner}; there is also {found}"
    if sentence:
        assert {file for file, text in STRINGS if sentence in text} == {owner}


@pytest.mark.parametrize("start", ["unknown ", "no such "])
def test_only_check_choice_refuses_an_unknown_name(start):
    """An error that begins with "unknown KIND" comes from check_choice, which suggests the nearest name. The page has its own sentences."""
    raised = []
    for file in (f for f in FILES if not place(f).startswith("ui/")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                text = node.exc.args[0]
                first = text.values[0] if isinstance(text, ast.JoinedStr) else text
                if isinstance(first, ast.Constant) and isinstance(first.value, str) and first.value.startswith(start):
                    raised.append(f"{place(file)}:{node.lineno}")
    allowed = {"flags.py", "networks/device.py"}  # device names are patterns (cuda:1), not a list
    assert [line for line in raised if line.partition(":")[0] not in allowed] == []


def test_precision_is_named_in_one_place():
    """str(dtype) without "torch." of a Studio is precision_of."""
    pattern = 'str(studio.dtype).removeprefix("torch.")'
    assert [place(file) for file in FILES if pattern in file.read_text()] == ["evaluation/protocol.py"]


def test_the_shape_of_images_is_put_together_in_one_place():
    """(in_channels, image_size, image_size) is UNetConfig.image_shape; ClassifierConfig has the same property."""
    places = []
    for file in FILES:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Tuple) and [getattr(e, "attr", "") for e in node.elts] == ["in_channels", "image_size", "image_size"]:
                places.append(place(file))
    assert places == ["networks/unet_config.py"]
