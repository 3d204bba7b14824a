"""The classifiers' networks: folding of the normalization, and the gradient of the noise-aware one."""

from __future__ import annotations

import pytest
import torch

from ddpm_app.networks.resnet import ClassifierConfig, NoisyConfig, NoisyResNet, ResNet, folded

PLAIN = ClassifierConfig("toy", ("a", "b", "c"), image_size=16, in_channels=3, widths=(8, 12), blocks=(1, 1))
NOISY = NoisyConfig("toy", ("a", "b", "c"), image_size=16, in_channels=3, widths=(8, 12), blocks=(1, 1), embedding=16)


def random_network(config: ClassifierConfig | NoisyConfig) -> ResNet | NoisyResNet:
    """All weights are random, and so are those that start at zero and the running statistics."""
    torch.manual_seed(0)
    network = NoisyResNet(config) if isinstance(config, NoisyConfig) else ResNet(config)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if "num_batches" not in name:
                value.copy_(torch.randn_like(value) * 0.2 + (1 if "running_var" in name or "norm" in name else 0))
                if "running_var" in name:
                    value.abs_()
    return network


def test_a_folded_network_gives_the_same_outputs():
    net = random_network(PLAIN).eval()
    x = torch.randn(5, 3, 16, 16)
    with torch.inference_mode():
        for got, want in zip(folded(net)(x), net(x)):
            torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    assert not any("norm" in name for name in folded(net).state_dict())
    assert "norm.running_var" in net.state_dict(), "the network itself stays as it was"


def test_the_gradient_of_the_noise_aware_network_equals_central_differences():
    net = random_network(NOISY).double().eval()
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)).double().requires_grad_(True)
    (gradient,) = torch.autograd.grad(net(x, 1.5).log_softmax(1)[:, 1].sum(), x)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        up, down = (net(x + h * direction, 1.5).log_softmax(1)[:, 1].sum() for h in (1e-5, -1e-5))
    assert float((up - down) / 2e-5) == pytest.approx(float((gradient * direction).sum()), rel=1e-3)  # c_in in float32
