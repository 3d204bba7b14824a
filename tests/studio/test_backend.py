"""The backend: which one is chosen, int8 that is measured before it is used, and the same request in int8 and float32."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from ddpm_app.checkpoints.checkpoint import open_checkpoint
from ddpm_app.cli import quantise as command
from ddpm_app.evaluation.protocol import precision_of
from ddpm_app.evaluation.samples import folder_of
from ddpm_app.networks import openvino
from ddpm_app.networks.openvino import OpenVINONetwork
from ddpm_app.paths import SHIPPED
from ddpm_app.studio import backend
from ddpm_app.studio.studio import Request, Studio
from tests.conftest import make_checkpoint

CPU, F32, BF16 = torch.device("cpu"), torch.float32, torch.bfloat16
needs_openvino = pytest.mark.skipif(not openvino.installed(), reason="OpenVINO is not installed")
REQUEST = Request("model", n=3, evaluations=3, label="cat")


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return make_checkpoint(tmp_path / "models" / "model")


def studio_of(model, **options) -> Studio:
    return Studio([model.path.parent], device="cpu", **options)


def know_int8(model, **changes) -> None:
    """Write int8.json with the ranges that the network takes on noise."""
    denoiser = model.denoiser("cpu", F32)
    with torch.inference_mode(), openvino.observed_ranges(denoiser.network) as ranges:
        denoiser(torch.randn(8, 3, 16, 16), torch.tensor(1.0), torch.arange(8))
    digest = backend.digest_of_weights(model.path)
    content = {"format": backend.FORMAT, "weights": digest, "refused": "", "ranges": ranges, **changes}
    (model.path / backend.FILE).write_text(json.dumps(content))


# -- the choice -----------------------------------------------------------------------------------------------------------


def test_auto_is_openvino_where_it_is_installed_and_nothing_has_bf16(monkeypatch):
    monkeypatch.setattr(openvino, "installed", lambda: True)
    assert backend.pick_backend("auto", CPU, F32, "auto") == "openvino"
    assert backend.pick_backend("auto", CPU, BF16, "auto") == "torch"
    assert backend.pick_backend("auto", CPU, F32, "fp32") == "torch", "float32 was asked for"
    assert backend.pick_backend("auto", torch.device("cuda"), F32, "auto") == "torch"
    assert backend.pick_backend("openvino", CPU, F32, "fp32") == "openvino"
    assert backend.pick_backend("torch", CPU, F32, "auto") == "torch"
    for device, dtype, part in ((torch.device("cuda"), F32, "--device cpu"), (CPU, BF16, "--precision fp32")):
        with pytest.raises(ValueError, match=part):
            backend.pick_backend("openvino", device, dtype, "auto")
    monkeypatch.setattr(openvino, "installed", lambda: False)
    assert backend.pick_backend("auto", CPU, F32, "auto") == "torch"
    with pytest.raises(ValueError, match="requirements-fast"):
        backend.pick_backend("openvino", CPU, F32, "auto")
    with pytest.raises(ValueError, match="did you mean 'openvino'"):
        backend.pick_backend("open", CPU, F32, "auto")


@needs_openvino
def test_auto_uses_pytorch_until_the_int8_of_a_model_is_known(model):
    studio = studio_of(model)
    if studio.dtype != F32:
        pytest.skip("this processor has bf16")
    assert studio.sampling_denoiser(model) is studio.denoiser(model)
    expected, _ = studio_of(model, backend="torch").images(REQUEST)
    assert (studio.images(REQUEST)[0] == expected).all()
    assert "OpenVINO" not in studio.describe("model")
    know_int8(model)
    studio.prepare("model")
    assert isinstance(studio.sampling_denoiser(model).network, OpenVINONetwork)
    assert studio.describe("model").endswith("OpenVINO int8")
    assert not isinstance(studio.denoiser(model).network, OpenVINONetwork), "likelihoods stay in PyTorch"


@needs_openvino
@pytest.mark.parametrize(
    "change", [{"refused": "it is 9 grey levels off"}, {"weights": "0" * 64}, {"format": 9}, {"ranges": {"a": [0, 1]}}]
)
def test_int8_that_was_refused_or_belongs_to_other_weights_is_not_used(model, change):
    know_int8(model, **change)
    studio = studio_of(model)
    assert studio.sampling_denoiser(model) is studio.denoiser(model)


# -- images ---------------------------------------------------------------------------------------------------------------


@needs_openvino
def test_float32_of_openvino_gives_the_same_images(model):
    expected, _ = studio_of(model, backend="torch", precision="fp32").images(REQUEST)
    images, _ = studio_of(model, backend="openvino", precision="fp32").images(REQUEST)
    assert np.abs(images.astype(int) - expected.astype(int)).max() <= 1


@needs_openvino
def test_numbers_measured_in_int8_say_so_and_have_their_own_samples(model, monkeypatch):
    monkeypatch.setattr("ddpm_app.networks.device.cpu_has_bf16", lambda: False)
    know_int8(model)
    torch_studio, fast = studio_of(model, backend="torch"), studio_of(model, backend="openvino")
    assert precision_of(torch_studio, model) == "float32" and precision_of(fast, model) == "int8 (OpenVINO)"
    assert folder_of(torch_studio, REQUEST, model) != folder_of(fast, REQUEST, model)


# -- measuring ------------------------------------------------------------------------------------------------------------


@needs_openvino
def test_a_model_is_measured_and_what_is_too_far_off_is_refused(model, monkeypatch, capsys):
    """Random weights amplify rounding, so both outcomes are set by the limits."""
    monkeypatch.setattr(backend, "SEEDS", 2)
    content = backend.quantise(model, Request(evaluations=2), seeds=2)
    measured = content["measured"]
    assert len(measured["grey levels of x0"]) == backend.LEVELS and 0 < max(measured["grey levels of x0"]) < 40 and measured["psnr"] > 5
    assert openvino.check_ranges(content["ranges"], model.denoiser("cpu", F32).network)
    for most, least, reason in ((1e-9, 0, "grey levels"), (1e9, 1e9, "dB"), (1e9, 0, "")):
        monkeypatch.setattr(backend, "MOST_GREY_LEVELS", most)
        monkeypatch.setattr(backend, "LEAST_PSNR", least)
        content = backend.quantise(model, Request(evaluations=2), seeds=2)
        assert reason in content["refused"] and bool(content["refused"]) == bool(reason) != backend.accepted(content)
    backend.write(model, content, backend.cached_file(model))
    assert backend.stored(model) == json.loads(json.dumps(content))
    assert command.main([str(model.path / "missing")], "") == 2 and "quantise:" in capsys.readouterr().err


def test_weights_that_changed_meanwhile_are_an_error(model):
    with pytest.raises(ValueError, match="changed meanwhile"):
        backend.write(model, {"weights": "0" * 64}, model.path / backend.FILE)


def test_conversion_waits_for_the_end_of_a_training(model, monkeypatch):
    started = []
    monkeypatch.setattr(
        backend.subprocess, "Popen", lambda command, **_: started.append(command) or type("P", (), {"poll": lambda s: None})()
    )
    monkeypatch.setattr(backend, "_conversions", {})
    backend.convert_in_background(model)
    assert started == [], "its weights are new"
    monkeypatch.setattr(backend, "QUIET_SECONDS", -1)
    backend.convert_in_background(model)
    backend.convert_in_background(model)
    assert len(started) == 1 and started[0][-2:] == [str(model.path), "--cache"]


@pytest.mark.parametrize("name", [p.parent.name for p in sorted(SHIPPED.glob("*/" + backend.FILE))])
def test_int8_of_the_shipped_models_belongs_to_their_weights_and_was_accepted(name):
    content = backend.stored(checkpoint := open_checkpoint(SHIPPED / name))
    assert backend.accepted(content), name
    assert max(content["measured"]["grey levels of x0"]) <= backend.MOST_GREY_LEVELS
    assert content["measured"]["psnr"] >= backend.LEAST_PSNR and content["measured"]["seeds"] >= 64
    assert openvino.check_ranges(content["ranges"], checkpoint.denoiser("cpu", F32).network)
