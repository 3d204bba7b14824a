"""The U-Net: sizes of the presets, equality with diffusers' UNet2DModel, and the fast way to infer beside the plain one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as nnf

from ddpm_app.networks import unet as module
from ddpm_app.networks.device import for_inference, pick_device, pick_dtype
from ddpm_app.networks.unet import UNet, forward_flops, parameter_count, timestep_embedding
from ddpm_app.networks.unet_config import PRESETS, UNetConfig, preset_config

CPU = torch.device("cpu")


def random_weights(network: nn.Module, seed: int = 0) -> nn.Module:
    """No layer left at zero, no normalisation left at one."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=g) * (0.1 if p.ndim == 1 else 0.02))
    return network.eval()


def inputs(config: UNetConfig, batch: int = 3, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, config.in_channels, config.image_size, config.image_size, generator=g)
    t = torch.rand(batch, generator=g) * 999
    return x, t, torch.randint(0, config.num_classes + 1, (batch,), generator=g) if config.num_classes else None


MICRO = UNetConfig(16, 3, channels=16, multipliers=(1, 2, 2), blocks=2, attention=(8,), head_dim=16, dropout=0.1, num_classes=3)


# -- the presets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name, classes, low, high",
    [("ddpm", 0, 35.7, 35.8), ("ddpm", 10, 35.7, 35.8), ("small", 10, 6, 10), ("tiny", 10, 1, 2), ("tiny", 0, 1, 2)],
)
def test_preset_sizes(name, classes, low, high):
    with torch.device("meta"):
        millions = parameter_count(UNet(preset_config(name, num_classes=classes))) / 1e6
    assert low <= millions <= high


def test_preset_operations():
    network = {name: UNet(preset_config(name, num_classes=10)) for name in PRESETS}
    gflop = {name: forward_flops(network[name]) / 1e9 for name in PRESETS}
    assert gflop["small"] <= 2.5 and gflop["tiny"] < gflop["small"] < gflop["ddpm"]
    assert gflop["ddpm"] == pytest.approx(12.1, abs=0.4)  # 36 GFLOP a training image (FIELD.md), a third of it forward
    assert forward_flops(network["tiny"], 4) == pytest.approx(4 * gflop["tiny"] * 1e9)
    assert forward_flops(for_inference(network["tiny"], CPU)) < 0.97 * gflop["tiny"] * 1e9, "folding saves work"


def test_ddpm_is_ho_et_al():
    """Appendix B: 128 channels, 1-2-2-2, two blocks a level, attention at 16x16 and in the middle, dropout 0.1."""
    c = preset_config("ddpm")
    assert (c.channels, c.multipliers, c.blocks, c.attention, c.dropout) == (128, (1, 2, 2, 2), 2, (16,), 0.1)
    with torch.device("meta"):
        network = UNet(c)
    assert [level.attention is not None for level in network.down] == [False, True, False, False]
    assert [level.attention is not None for level in network.up] == [False, False, True, False]
    assert isinstance(network.mid[1], module.Attention) and network.mid[1].heads == 1
    assert {m.num_groups for m in network.modules() if isinstance(m, nn.GroupNorm)} == {32}


def test_presets_are_named_when_unknown():
    with pytest.raises(ValueError, match="ddpm, small, tiny"):
        preset_config("huge")


@pytest.mark.parametrize(
    "wrong",
    [
        dict(channels=20), dict(channels=0), dict(image_size=2), dict(image_size=512), dict(in_channels=7), dict(blocks=0),
        dict(multipliers=()), dict(dropout=1.0), dict(num_classes=-1), dict(image_size=8, multipliers=(1, 1, 1, 1, 1)),
        dict(head_dim=-1), dict(channels=224, multipliers=(1,), head_dim=64),
    ],
)  # fmt: skip
def test_impossible_networks_are_refused(wrong):
    with pytest.raises(ValueError, match="this U-Net cannot be built"):
        UNetConfig(**wrong)


# -- shapes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [28, 33, 7, 10, 32])
def test_any_image_size(size):
    config = UNetConfig(size, 1, channels=8, multipliers=(1, 1, 2), blocks=1, attention=(size // 2,), num_classes=2)
    network = random_weights(UNet(config))
    sizes = []
    for level in network.down:
        level.blocks[0].register_forward_hook(lambda m, i, o: sizes.append(o.shape[-1]))
    x, t, label = inputs(config)
    with torch.no_grad():
        assert network(x, t, label).shape == x.shape
        torch.testing.assert_close(for_inference(network, CPU, torch.float32)(x, t, label), network(x, t, label))
    assert sizes[:3] == config.resolutions and network.down[1].attention is not None


def test_a_new_network_outputs_zeros():
    network = UNet(MICRO).eval()
    x, t, label = inputs(MICRO)
    assert not network(x, t, label).any() and network(x, t, label).dtype == torch.float32


def test_a_new_network_learns_at_once():
    network = UNet(MICRO)
    x, t, label = inputs(MICRO)
    (network(x, t, label) - 1).square().mean().backward()
    assert network.conv_out.weight.grad.abs().sum() > 0 and all(p.grad is not None for p in network.parameters())


def test_time_and_class_matter_and_none_is_the_null_class():
    network = random_weights(UNet(MICRO))
    with torch.no_grad():
        network.label_emb.weight.mul_(10)
        x, t, _ = inputs(MICRO)
        null = torch.full((3,), 3)
        assert torch.equal(network(x, t, None), network(x, t, null))
        assert (network(x, t, null) - network(x, t, torch.zeros(3, dtype=torch.long))).abs().max() > 1e-3
        assert (network(x, t, null) - network(x, t + 100, null)).abs().max() > 1e-3
        torch.testing.assert_close(network(x, torch.tensor(5.0), null), network(x, torch.full((3,), 5.0), null))
        torch.testing.assert_close(network(x[1:2], t[1:2], null[:1]), network(x, t, null)[1:2], rtol=1e-4, atol=1e-5)


# -- beside diffusers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [32, 128])
def test_time_embedding_is_diffusers(dim):
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    t = torch.tensor([0.0, 1.0, 17.25, 500.0, 999.0])
    want = embeddings.get_timestep_embedding(t, dim, flip_sin_to_cos=False, downscale_freq_shift=1)
    torch.testing.assert_close(timestep_embedding(t, dim), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "config",
    [
        preset_config("ddpm"),
        UNetConfig(8, 1, channels=128, multipliers=(1, 2), blocks=1, attention=(8, 4), head_dim=64, num_classes=4),
    ],
    ids=["ddpm", "conditional"],
)
def test_same_output_as_diffusers_both_ways(config):
    """Random weights made by diffusers and copied into ours, and made by ours and copied into theirs."""
    pytest.importorskip("diffusers")
    from ddpm_app.checkpoints.diffusers import from_diffusers, to_diffusers

    ours = random_weights(UNet(config))
    diffusers_unet = to_diffusers(ours)
    x, t, label = inputs(config, batch=1 if config.channels * config.image_size > 2000 else 3)
    with torch.no_grad():
        want = diffusers_unet(x, t, class_labels=label).sample
        assert want.abs().mean() > 0.01
        torch.testing.assert_close(ours(x, t, label), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
        back = from_diffusers(random_weights(diffusers_unet, seed=1))
        want = diffusers_unet(x, t, class_labels=label).sample
        torch.testing.assert_close(back(x, t, label), want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))
        fast = for_inference(back, CPU, torch.float32)(x, t, label)
        torch.testing.assert_close(fast, want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


# -- the fast way -------------------------------------------------------------------------------------------------------


def test_inference_gives_what_training_sees():
    """channels_last, folded, in place and without gradients against the plain forward pass with them."""
    network = random_weights(UNet(MICRO))
    x, t, label = inputs(MICRO, batch=40)  # large enough for every shortcut
    plain = network(x, t, label).detach()
    fast = for_inference(network, CPU, torch.float32)
    assert all(m.folded is not None for m in fast.modules() if isinstance(m, module.Upsample))
    with torch.inference_mode():
        torch.testing.assert_close(fast(x, t, label), plain, rtol=1e-4, atol=1e-5)
    fast.requires_grad_(True)
    torch.testing.assert_close(fast(x, t, label).detach(), plain, rtol=1e-4, atol=1e-5)


def test_bf16_is_close_to_float32():
    network = random_weights(UNet(MICRO))
    x, t, label = inputs(MICRO, batch=40)
    with torch.inference_mode():
        want = network(x, t, label)
        half = for_inference(network, CPU, torch.bfloat16)
        assert half.conv_in.weight.dtype == torch.bfloat16
        got = half(x, t, label)
    assert got.dtype == torch.float32 and (got - want).norm() < 0.02 * want.norm()


@pytest.mark.parametrize("channels, size", [(32, 8), (96, 16), (128, 16), (64, 32), (128, 4), (256, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_group_norm(channels, size, dtype):
    norm = module.group_norm(channels)
    assert norm.num_groups <= 32 and channels // norm.num_groups >= 4
    x = torch.randn(32, channels, size, size, generator=torch.Generator().manual_seed(0)) * 3 + 5
    with torch.no_grad():
        norm.weight.normal_(), norm.bias.normal_()
        norm.to(dtype)
        want = nnf.group_norm(x.to(dtype).float(), norm.num_groups, norm.weight.float(), norm.bias.float(), 1e-6)
        for layout in (torch.contiguous_format, torch.channels_last):
            error = norm(x.to(dtype).to(memory_format=layout)).float() - want
            assert error.norm() < (1e-5 if dtype == torch.float32 else 0.006) * want.norm()


def test_attention_is_softmax_of_products():
    g = torch.Generator().manual_seed(0)
    for n in (16, 600):  # on both sides of where the fused kernel takes over
        q, k, v = torch.randn(3, 2, 4, n, 8, generator=g)
        want = torch.softmax(torch.einsum("bhid,bhjd->bhij", q, k) / 8**0.5, -1) @ v
        with torch.no_grad():
            torch.testing.assert_close(module.attend(q, k, v), want, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(module.attend(q.requires_grad_(), k, v), want, rtol=1e-4, atol=1e-5)


def test_folded_upsampling():
    up = random_weights(module.Upsample(16))
    for h, w in ((4, 4), (3, 5), (1, 1)):
        x = torch.randn(2, 16, h, w, generator=torch.Generator().manual_seed(h))
        with torch.no_grad():
            up.folded = None
            want = nnf.conv2d(nnf.interpolate(x, scale_factor=2, mode="nearest"), up.weight, up.bias, padding=1)
            torch.testing.assert_close(up(x, torch.Size((2 * h, 2 * w))), want)
            up.fold()
            torch.testing.assert_close(up(x, torch.Size((2 * h, 2 * w))), want, rtol=1e-4, atol=1e-5)
            assert up(x, torch.Size((2 * h + 1, 2 * w))).shape == (2, 16, 2 * h + 1, 2 * w)
    assert set(up.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize("size", [4, 24])
def test_folded_attention(size):
    """Two projections instead of four, up to where the fused kernel takes over again."""
    attention = random_weights(module.Attention(32, 0))
    with torch.no_grad():
        attention.qkv.weight.mul_(4), attention.out.weight.mul_(4)
        x = torch.randn(2, 32, size, size, generator=torch.Generator().manual_seed(0))
        want = attention(x)
        attention.fold()
        torch.testing.assert_close(attention(x), want, rtol=1e-4, atol=1e-5)
        assert not torch.equal(attention(x), want) or size == 24
    torch.testing.assert_close(attention(x).detach(), want, rtol=1e-4, atol=1e-5)
    assert set(attention.state_dict()) == set(module.Attention(32, 16).state_dict())
    several = module.Attention(32, 16)
    several.fold()
    assert several.folded is None


def test_new_weights_undo_the_folding():
    first, second = random_weights(UNet(MICRO), 0), random_weights(UNet(MICRO), 1)
    x, t, label = inputs(MICRO)
    with torch.no_grad():
        want = second(x, t, label)
        fast = for_inference(first, CPU, torch.float32)
        fast.load_state_dict(second.state_dict())
        torch.testing.assert_close(fast(x, t, label), want, rtol=1e-4, atol=1e-5)


def test_devices_are_named_when_absent():
    assert pick_device("cpu") == CPU and pick_dtype(CPU, "fp32") == torch.float32 and pick_dtype(CPU, "bf16") == torch.bfloat16
    with pytest.raises(ValueError, match="gpu9"):
        pick_device("gpu9")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="cuda"):
            pick_device("cuda")
