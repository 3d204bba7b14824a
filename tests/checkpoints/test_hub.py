"""diffusers' networks in and out, and the hub, without a network: local repositories stand in for it."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ddpm_app.checkpoints import checkpoint, diffusers, hub
from ddpm_app.checkpoints.checkpoint import CheckpointConfig, open_checkpoint
from ddpm_app.checkpoints.description import CheckpointError
from ddpm_app.networks.unet import UNet
from ddpm_app.networks.unet_config import UNetConfig

pytest.importorskip("diffusers")
SMALL = UNetConfig(8, 1, channels=128, multipliers=(1, 1), blocks=1, attention=(4,), num_classes=3, dropout=0.0)


def randomised(network, seed=0):
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(torch.randn(p.shape, generator=g) * 0.05)
    return network.eval()


def refused(action, *words):
    with pytest.raises(CheckpointError) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text and all(word in text for word in words), text


# -- conversion (equality of the outputs is in test_unet.py) --------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        UNetConfig(16, 3, channels=128, multipliers=(1, 2, 2), blocks=2, attention=(8, 4), head_dim=64, dropout=0.1),
        UNetConfig(4, 3, channels=256, multipliers=(1,), blocks=1, attention=()),
    ],
)
def test_there_and_back_is_the_same_network(config):
    ours = UNet(config)
    diffusers_network = diffusers.to_diffusers(ours)
    assert (
        diffusers_network.config.norm_num_groups == 32
        and diffusers_network.config.sample_size == config.image_size
        and not diffusers_network.training
    )
    back = diffusers.from_diffusers(diffusers_network)
    assert back.config == config and not back.training
    assert all(torch.equal(v, back.state_dict()[k]) for k, v in ours.state_dict().items())


def test_the_preset_ddpm_has_the_layout_of_google_ddpm_cifar10():
    """The configuration google/ddpm-cifar10-32 is published with."""
    google = {
        "_class_name": "UNet2DModel", "act_fn": "silu", "attention_head_dim": None, "block_out_channels": [128, 256, 256, 256],
        "center_input_sample": False, "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
        "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2,
        "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3, "sample_size": 32,
        "time_embedding_type": "positional", "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    }  # fmt: skip
    assert diffusers.unet_config(google, None) == UNetConfig(32, 3, 128, (1, 2, 2, 2), 2, (16,), dropout=0.0)
    diffusers_network = dict(diffusers.to_diffusers(UNet(SMALL)).config)
    assert all(diffusers_network[k] == google[k] for k in google if k in diffusers.REQUIRED_SETTINGS)
    assert diffusers.unet_config({**google, "sample_size": None}, 64).attention == (32,)


def test_a_state_dict_needs_its_configuration():
    diffusers_network = diffusers.to_diffusers(randomised(UNet(SMALL)))
    state = diffusers_network.state_dict()
    refused(lambda: diffusers.from_diffusers(state), "configuration")
    old = {}
    for name, value in state.items():  # as diffusers before 0.15 named them
        for now, then in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")):
            name = name.replace(now, then)
        old[name] = value
    assert old.keys() != state.keys()
    a, b = diffusers.from_diffusers(state, diffusers_network.config), diffusers.from_diffusers(old, diffusers_network.config)
    assert all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())
    key = "mid_block.attentions.0.to_k.weight"
    refused(
        lambda: diffusers.from_diffusers({k: v for k, v in state.items() if k != key}, diffusers_network.config),
        "missing",
        "mid.1.qkv.weight",
    )
    refused(lambda: diffusers.from_diffusers({**state, "extra": state[key]}, diffusers_network.config), "surplus", "extra")
    refused(lambda: diffusers.from_diffusers({**state, key: state[key][:5]}, diffusers_network.config), "misshapen")


@pytest.mark.parametrize(
    "change, word",
    [
        ({"flip_sin_to_cos": True}, "flip_sin_to_cos"),
        ({"flip_sin_to_cos": ...}, "flip_sin_to_cos"),  # not said: diffusers' default is another than ours
        ({"downsample_padding": 1}, "downsample_padding"),
        ({"norm_eps": 1e-5}, "norm_eps"),
        ({"norm_num_groups": 16}, "norm_num_groups is 16"),
        ({"block_out_channels": [64, 64]}, "norm_num_groups is 32; here these widths have [16, 32]"),
        ({"block_out_channels": [128, 192]}, "multiples"),
        ({"block_out_channels": []}, "configuration"),
        ({"block_out_channels": [0, 0]}, "configuration"),
        ({"down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"]}, "blocks"),
        ({"up_block_types": ["UpBlock2D", "AttnUpBlock2D"]}, "blocks"),
        ({"resnet_time_scale_shift": "scale_shift"}, "resnet_time_scale_shift"),
        ({"class_embed_type": "timestep"}, "class_embed_type"),
        ({"out_channels": 6}, "channels"),
        ({"attention_head_dim": 48}, "attention_head_dim 48"),
        ({"sample_size": [32, 64]}, "configuration"),
        ({"sample_size": 10**6}, "configuration"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type"),
    ],
)
def test_foreign_layouts_are_named(change, word):
    config = {**diffusers.to_diffusers(UNet(SMALL)).config, **change}
    refused(lambda: diffusers.unet_config({k: v for k, v in config.items() if v is not ...}, None), word)


@pytest.mark.parametrize(
    "change, word",
    [
        (dict(channels=64), "groups"),
        (dict(image_size=9), "halve 9 pixels"),
        (dict(head_dim=48), "48"),
    ],
)
def test_what_diffusers_cannot_represent(change, word):
    refused(lambda: diffusers.to_diffusers(UNet(dataclasses.replace(SMALL, **change))), word)


# -- the hub ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def remote(tmp_path, monkeypatch):
    """A directory of repositories, owner/name, and a snapshot_download that copies what the patterns allow out of it."""
    import huggingface_hub
    from huggingface_hub.errors import RepositoryNotFoundError
    from huggingface_hub.utils import filter_repo_objects

    root = tmp_path / "remote"

    def download(repo_id, *, allow_patterns, **_):
        if not (root / repo_id).is_dir():
            raise RepositoryNotFoundError.__new__(RepositoryNotFoundError, "404")
        local = tmp_path / "hf-cache" / repo_id
        names = [str(f.relative_to(root / repo_id)) for f in (root / repo_id).rglob("*") if f.is_file()]
        for name in filter_repo_objects(names, allow_patterns=allow_patterns):
            assert not name.endswith((".bin", ".pt", ".pkl")), "a pickle was downloaded"
            (local / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / repo_id / name, local / name)
        return str(local)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(hub, "reachable", lambda url=None, seconds=3.0: True)
    monkeypatch.setenv("DDPM_CACHE", str(tmp_path / "cache"))
    return root


def published(folder: Path, seed=0, sub="", **noise):
    """A diffusers repository: network, and a scheduler's configuration where told."""
    diffusers_network = diffusers.to_diffusers(randomised(UNet(SMALL), seed))
    diffusers_network.save_pretrained(folder / sub)
    if noise:
        where = folder / "scheduler" if sub else folder
        where.mkdir(exist_ok=True)
        (where / "scheduler_config.json").write_text(json.dumps(noise))
    return diffusers_network


def agrees(path, diffusers_network):
    network = open_checkpoint(path).denoiser(dtype=torch.float32).network
    x, t, label = torch.randn(2, 1, 8, 8), torch.tensor([7.0, 800.0]), torch.tensor([0, 3])
    with torch.no_grad():
        torch.testing.assert_close(network(x, t, label), diffusers_network(x, t, class_labels=label).sample, rtol=1e-4, atol=1e-4)


def test_fetch_ours(remote):
    config = CheckpointConfig(SMALL, {"name": "cosine", "T": 1000}, "v", "toy", ("a", "b", "c"), images_seen=9)
    network = randomised(UNet(SMALL))
    checkpoint.save(remote / "ann" / "model", config, network.state_dict())
    (remote / "ann" / "model" / "README.md").write_text("# card")
    (remote / "ann" / "model" / "log.jsonl").write_text('{"step": 1}\n')
    (remote / "ann" / "model" / "state.pt").write_bytes(b"\x80\x04")
    path = hub.fetch("ann/model")
    assert path == hub.cache_dir("hub") / "ann--model" and hub.fetch(" https://huggingface.co/ann/model/ ") == path
    found = open_checkpoint(path)
    assert found.config == config and found.card() == "# card" and found.log() == [{"step": 1}]
    assert not list(path.glob("*.pt")) and [p.name for p in path.parent.iterdir()] == ["ann--model"]
    found.denoiser()
    shards = [f for f in path.iterdir() if f.suffix == ".safetensors"]
    assert sum(f.stat().st_size for f in shards) < 2.1 * sum(p.numel() for p in network.parameters())


def test_fetch_diffusers(remote):
    diffusers_network = published(
        remote / "google" / "ddpm", beta_schedule="linear", beta_start=2e-4, beta_end=0.03, num_train_timesteps=500
    )
    path = hub.fetch("google/ddpm")
    config = open_checkpoint(path).config
    assert config.schedule == {"name": "linear", "T": 500, "beta_start": 2e-4, "beta_end": 0.03} and config.prediction_type == "eps"
    assert config.network == SMALL and config.classes == ("0", "1", "2") and config.data == "google/ddpm"
    assert "google/ddpm" in open_checkpoint(path).card()
    agrees(path, diffusers_network)


@pytest.mark.parametrize(
    "noise, name, row",
    [
        ({}, "linear", "eps"),
        (dict(beta_schedule="scaled_linear", beta_start=1e-3, prediction_type="v_prediction"), "scaled-linear", "v"),
        (dict(beta_schedule="squaredcos_cap_v2", beta_start=1e-4, beta_end=0.02, prediction_type="sample"), "cosine", "x0"),
    ],
)
def test_fetch_a_pipeline(remote, noise, name, row):
    diffusers_network = published(remote / "me" / "pipe", 1, "unet", **noise)
    (remote / "me" / "pipe" / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    path = hub.fetch("me/pipe")
    config = open_checkpoint(path).config
    assert (config.schedule["name"], config.schedule["T"], config.prediction_type) == (name, 1000, row)
    agrees(path, diffusers_network)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda f: (f / "diffusion_pytorch_model.safetensors").rename(f / "diffusion_pytorch_model.bin"), (".bin", "refused")),
        (lambda f: (f / "diffusion_pytorch_model.safetensors").write_bytes(b"\x80\x04" * 99), ("not safetensors",)),
        (lambda f: save_file({"a": torch.zeros(1)}, f / "diffusion_pytorch_model.safetensors"), ("missing",)),
        (lambda f: (f / "config.json").write_text("{"), ("neither",)),
        (lambda f: (f / "config.json").write_text('{"_class_name": "UNet2DConditionModel"}'), ("neither",)),
        (lambda f: (f / "config.json").write_text('{"_class_name": "UNet2DModel"}'), ("freq_shift",)),
        (lambda f: (f / "config.json").write_text('{"format": 1, "row": "v"}'), ("config.json",)),
        (lambda f: (f / "scheduler_config.json").write_text('{"beta_schedule": "sigmoid"}'), ("sigmoid",)),
        (lambda f: (f / "scheduler_config.json").write_text('{"trained_betas": [0.1]}'), ("schedule",)),
        (lambda f: (f / "scheduler_config.json").write_text('{"beta_end": 7}'), ("beta_end",)),
        (lambda f: (f / "scheduler_config.json").write_text('{"beta_schedule": ["linear"]}'), ("schedule",)),
        (lambda f: (f / "scheduler_config.json").write_text('{"num_train_timesteps": 1e99}'), ("2 to 100000",)),
    ],
)
def test_repositories_that_cannot_be_imported(remote, change, words):
    published(remote / "bad" / "one")
    change(remote / "bad" / "one")
    refused(lambda: hub.fetch("bad/one"), "bad/one", *words)
    assert not list(hub.cache_dir("hub").iterdir()), "nothing half-made is left"


def test_a_damaged_model_of_ours_is_not_kept(remote):
    config = CheckpointConfig(SMALL, {"name": "cosine", "T": 1000}, "v", "toy", ("a", "b", "c"))
    checkpoint.save(remote / "ann" / "model", config, {**UNet(SMALL).state_dict(), "more": torch.zeros(1)})
    refused(lambda: hub.fetch("ann/model"), "ann/model", "surplus", "more")
    assert not list(hub.cache_dir("hub").iterdir())


def test_names_that_are_none(remote):
    for name in ("", "model", "a/b/c", "../..", "a/..", "a\n/b", "a b/c", "./a", "http://evil.example/a/b"):
        refused(lambda name=name: hub.fetch(name), "owner/name")
    refused(lambda: hub.fetch("nobody/nothing"), "no public model nobody/nothing")


def test_offline_fails_fast_and_keeps_what_was_fetched(remote, monkeypatch):
    published(remote / "me" / "kept")
    path = hub.fetch("me/kept")
    monkeypatch.setattr(hub, "reachable", lambda url=None, seconds=3.0: False)
    refused(lambda: hub.fetch("me/other"), "me/other", "does not answer")
    assert hub.fetch("me/kept") == path


def test_the_probe_gives_up_in_time(monkeypatch):
    import huggingface_hub

    class Session:
        def __init__(self, seconds, error=None):
            self.seconds, self.error = seconds, error

        def head(self, *_, **__):
            time.sleep(self.seconds)
            if self.error:
                raise self.error

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for session, answer in ((Session(0), True), (Session(0, OSError("unreachable")), False), (Session(5), False)):
        monkeypatch.setattr(huggingface_hub, "get_session", lambda session=session: session)
        begun = time.perf_counter()
        assert hub.reachable(seconds=0.3) is answer and time.perf_counter() - begun < 2
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert hub.reachable(seconds=0.3)
