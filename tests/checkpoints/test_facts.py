"""Facts of a model for lists and cards: correct, and without loading torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ddpm_app.checkpoints.checkpoint import open_checkpoint
from ddpm_app.checkpoints.facts import model_facts, parameters
from ddpm_app.networks.unet import UNet, parameter_count
from ddpm_app.paths import PROJECT, SHIPPED
from tests.conftest import make_checkpoint


@pytest.mark.parametrize("name", [p.parent.name for p in SHIPPED.glob("*/config.json")])
def test_the_parameter_count_is_that_of_the_network(name):
    checkpoint = open_checkpoint(SHIPPED / name)
    assert parameters(checkpoint) == parameter_count(UNet(checkpoint.config.network)) == model_facts(checkpoint)["parameters"]


@pytest.mark.parametrize("damage", ["missing", "cut short"])
def test_the_count_needs_no_readable_weights(tmp_path, damage):
    checkpoint = make_checkpoint(tmp_path / "model")
    expected = parameters(checkpoint)
    weights = checkpoint.path / "weights.safetensors"
    weights.unlink() if damage == "missing" else weights.write_bytes(weights.read_bytes()[:100])
    assert parameters(checkpoint) == expected


def test_the_list_of_models_loads_no_torch():
    code = "import sys; from ddpm_app.cli.main import main; main(['models', '--json']); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and '"mnist"' in done.stdout, done.stderr
