"""The U-Net in OpenVINO: float32 equals PyTorch, int8 is near it, batches of any size, gradients, damaged ranges."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from ddpm_app.networks import openvino
from ddpm_app.networks.device import for_inference
from ddpm_app.networks.openvino import SIZES, OpenVINONetwork, observed_ranges, parts_of
from ddpm_app.networks.unet import UNet
from ddpm_app.networks.unet_config import UNetConfig

needs_openvino = pytest.mark.skipif(not openvino.installed(), reason="OpenVINO is not installed")
MICRO = UNetConfig(16, 3, channels=16, multipliers=(1, 2), blocks=1, attention=(8,), head_dim=16, dropout=0.0, num_classes=3)
ODD = dataclasses.replace(MICRO, image_size=14, in_channels=1, multipliers=(1, 1, 2), head_dim=0, attention=(3,), num_classes=0)


def network_of(config: UNetConfig) -> UNet:
    """No layer at zero."""
    torch.manual_seed(0)
    network = UNet(config)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape) * (0.1 if p.ndim == 1 else 0.05))
    return for_inference(network, torch.device("cpu"), torch.float32)


def inputs(config: UNetConfig, n: int):
    g = torch.Generator().manual_seed(1)
    label = torch.randint(0, config.num_classes + 1, (n,), generator=g) if config.num_classes else None
    return torch.randn(n, *config.image_shape, generator=g), torch.rand(n, generator=g) * 999, label


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 12, 13, 20, 25, 31, 32, 33, 64, 100])
def test_the_parts_of_a_batch_hold_it_with_little_padding(n):
    parts = parts_of(n)
    assert sum(count for count, _ in parts) == n
    assert all(count <= size and size in SIZES for count, size in parts)
    assert all(4 * count > 3 * size for count, size in parts)


@needs_openvino
@pytest.mark.parametrize("config", [MICRO, ODD], ids=["several heads", "one head, odd maps, no classes"])
@pytest.mark.parametrize("n", [1, 3])
def test_float32_equals_pytorch(config, n):
    network, given = network_of(config), inputs(config, n)
    with torch.inference_mode():
        torch.testing.assert_close(OpenVINONetwork(network)(*given), network(*given), rtol=1e-4, atol=1e-4)


@needs_openvino
def test_int8_is_near_float32_and_not_equal():
    network, given = network_of(MICRO), inputs(MICRO, 4)
    with torch.inference_mode():
        with observed_ranges(network) as ranges:
            expected = network(*given)
        fast = OpenVINONetwork(network, ranges)
        assert ranges.keys() == openvino.int8_layers(network).keys()
        assert all(low <= 0 <= high for low, high in ranges.values())
        error = float((fast(*given) - expected).norm() / expected.norm())
    assert 1e-4 < error < 0.1
    assert fast.precision == "int8 (OpenVINO)" and OpenVINONetwork(network).precision == "float32 (OpenVINO)"
    operations = fast._requests[4].get_compiled_model().get_runtime_model().get_ops()
    int8 = ["I8" in operation.get_rt_info()["primitiveType"].astype(str) for operation in operations]
    assert sum(int8) == len(ranges), "every convolution but the first and the last"


@needs_openvino
def test_an_image_is_the_same_alone_and_in_a_batch():
    network, (x, t, label) = network_of(MICRO), inputs(MICRO, 5)
    with torch.inference_mode():
        with observed_ranges(network) as ranges:
            network(x, t, label)
        fast = OpenVINONetwork(network, ranges)
        together, alone = fast(x, t, label), fast(x[3:4], t[3:4], label[3:4])
    torch.testing.assert_close(together[3:4], alone, rtol=1e-4, atol=1e-4)


@needs_openvino
def test_gradients_come_from_pytorch():
    network, (x, t, label) = network_of(MICRO), inputs(MICRO, 2)
    y = OpenVINONetwork(network)(x.requires_grad_(True), t, label)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.abs().max() > 0 and torch.equal(y, network(x, t, label))


@needs_openvino
def test_pytorch_takes_over_after_values_that_are_not_finite(caplog):
    network, (x, t, label) = network_of(MICRO), inputs(MICRO, 2)
    fast = OpenVINONetwork(network)
    with torch.inference_mode():
        fast(torch.full_like(x, torch.nan), t, label)
        assert fast.failed and "infinities or NaN" in caplog.text
        assert torch.equal(fast(x, t, label), network(x, t, label))


@pytest.mark.parametrize(
    "change",
    [
        lambda r: None,
        lambda r: {"conv_in": (0, 1)},
        lambda r: {**r, next(iter(r)): (0.5, 1)},
        lambda r: {**r, next(iter(r)): (float("nan"), 1)},
        lambda r: {**r, next(iter(r)): (0, 0)},
        lambda r: {**r, next(iter(r)): "ab"},
    ],
)
def test_ranges_that_do_not_fit_are_refused(change):
    network = network_of(MICRO)
    ranges = dict.fromkeys(openvino.int8_layers(network), (-1.0, 2.0))
    assert openvino.check_ranges(ranges, network) == ranges
    with pytest.raises(ValueError, match="ranges"):
        openvino.check_ranges(change(ranges), network)
