"""CLIP: features, directories, published models from the cache, and errors where they cannot be loaded."""

from __future__ import annotations

import json
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from ddpm_app import files
from ddpm_app.checkpoints import hub
from ddpm_app.checkpoints.description import CheckpointError
from ddpm_app.classifiers import clip as clip_labels
from ddpm_app.classifiers.clip import build_model, load_clip, open_clip_directory, save_clip_directory
from ddpm_app.classifiers.clip_tower import register_tower, tower_name
from ddpm_app.images.pixels import to_model

open_clip = pytest.importorskip("open_clip")

TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TINY = {
    "embed_dim": 8,
    "vision_cfg": {
        "timm_model_name": tower_name((8, 16), (0, 1)),
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 32,
        "width": 16,
        "layers": 1,
    },
    "text_cfg": TEXT,
}
PIXELS = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "shortest"}
VIT = {"embed_dim": 8, "vision_cfg": {"image_size": 32, "layers": 1, "width": 16, "head_width": 8, "patch_size": 8}, "text_cfg": TEXT}
HF_REPO = "laion/CLIP-ViT-B-32-laion2B-s34B-b79K"


@pytest.fixture
def tiny(tmp_path):
    """A directory as train_clip writes it, with random weights; of the words only "cat" and its company are known."""
    torch.manual_seed(0)
    model, tokenizer = build_model(json.loads(json.dumps(TINY)))
    known = torch.zeros(49408, 1)
    known[tokenizer.encode("a photo of a cat")] = 1
    model.token_embedding.weight.data *= known
    save_clip_directory(tmp_path / "tiny", model, TINY, PIXELS, {"data": "cifar10"})
    return tmp_path / "tiny"


@pytest.fixture(autouse=True)
def nothing_loaded():
    clip_labels._LOADED.clear()
    yield
    clip_labels._LOADED.clear()


def pictures(n=5, channels=3, size=32, seed=0):
    return torch.randint(0, 256, (n, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def test_unit_vectors_independent_of_the_batch(tiny):
    clip = open_clip_directory(tiny)
    images, prompts = clip.images(pictures()), clip.text(["a photo of a cat", "a cat"])
    assert images.shape == (5, 8) and prompts.shape == (2, 8) and images.dtype == torch.float32
    for features in (images, prompts):
        assert torch.allclose(features.norm(dim=1), torch.ones(len(features)), atol=1e-5)
    assert torch.allclose(clip.images(pictures(), batch=2), images, atol=1e-5)
    assert clip.image_size == 32 and clip.logit_scale == pytest.approx(1 / 0.07, rel=1e-3) and len(clip.digest) == 64


def test_encode_and_images_give_the_same_features(tiny):
    clip = open_clip_directory(tiny)
    assert torch.allclose(clip.encode(to_model(pictures())), clip.images(pictures()), atol=1e-5)


def test_grey_is_rgb_of_three_equal_channels(tiny):
    clip, grey = open_clip_directory(tiny), pictures(channels=1, size=28)
    assert torch.allclose(clip.images(grey), clip.images(grey.expand(-1, 3, -1, -1)), atol=1e-5)


def test_the_gradient_equals_central_differences(tiny):
    """Against central differences along the gradient itself, where the slope is its norm."""
    clip = open_clip_directory(tiny)
    text = clip.text(["a photo of a cat"])[0]
    x = to_model(pictures(1)).requires_grad_()
    (gradient,) = torch.autograd.grad((clip.encode(x) @ text).sum(), x)
    way = gradient / gradient.norm()
    with torch.no_grad():
        up, down = (float(clip.encode(x + h * way) @ text) for h in (0.05, -0.05))
    assert (up - down) / 0.1 == pytest.approx(float(gradient.norm()), rel=0.05)
    assert all(p.grad is None and not p.requires_grad for p in clip.model.parameters())


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_resizing_is_what_open_clip_does_to_a_picture(tiny, mode, interpolation):
    """Against open_clip's own transform, which works on Pillow's 8-bit pictures: within its rounding."""
    from open_clip.transform import PreprocessCfg, image_transform_v2
    from PIL import Image

    clip = open_clip_directory(tiny)
    preprocess = {"size": 48, "mean": (0.48, 0.45, 0.4), "std": (0.26, 0.27, 0.28), "interpolation": interpolation, "resize_mode": mode}
    seen = []
    probe = clip_labels.Clip("probe", "", clip.model, None, preprocess)
    probe._encode = lambda x: seen.append(x) or torch.ones(len(x), 8)
    smooth = torch.nn.functional.interpolate(pictures(1, size=6).float(), (80, 64), mode="bicubic").clamp(0, 255).to(torch.uint8)
    probe.images(smooth)
    theirs = image_transform_v2(PreprocessCfg(**preprocess), is_train=False)(Image.fromarray(smooth[0].permute(1, 2, 0).numpy()))
    assert seen[0].shape == (1, 3, 48, 48)
    assert (seen[0][0] - theirs).abs().mean() * 0.27 * 255 < 2.0  # grey levels


def test_unknown_words_are_those_in_no_caption(tiny):
    clip = open_clip_directory(tiny)
    assert clip.unknown_words("a photo of a cat") == []
    assert clip.unknown_words("a photo of a red cat") == ["red"]


def test_a_directory_that_cannot_be_read(tiny, tmp_path):
    with pytest.raises(CheckpointError, match="no open_clip_config.json"):
        open_clip_directory(tmp_path)
    weights = load_file(tiny / "weights.safetensors")
    save_file({k: v for k, v in weights.items() if k != "logit_scale"}, tiny / "weights.safetensors")
    with pytest.raises(CheckpointError, match="1 missing keys in the weights, first logit_scale"):
        open_clip_directory(tiny)
    save_file({**weights, "logit_scale": torch.tensor(float("inf")).half()}, tiny / "weights.safetensors")
    with pytest.raises(CheckpointError, match="1 tensors hold infinities or NaN, first logit_scale"):
        open_clip_directory(tiny)
    (tiny / "weights.safetensors").write_bytes((tiny / "weights.safetensors").read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="cut short"):
        open_clip_directory(tiny)
    (tiny / "open_clip_config.json").write_text('{"model_cfg": {"vision_cfg": {"timm_model_name": "resnet50"}}}')
    with pytest.raises(CheckpointError, match="no image tower"):
        open_clip_directory(tiny)
    (tiny / "open_clip_config.json").write_text("[")
    with pytest.raises(CheckpointError, match="does not describe a CLIP"):
        open_clip_directory(tiny)


def test_a_large_model_is_sharded_below_what_a_space_takes(tmp_path):
    cfg = json.loads(json.dumps(TINY))
    cfg["text_cfg"] |= {"width": 128}
    model, _ = build_model(json.loads(json.dumps(cfg)))
    save_clip_directory(tmp_path / "c", model, cfg, PIXELS, {"data": "x"})
    assert len(list((tmp_path / "c").glob("weights-0000*.safetensors"))) == 2
    assert open_clip_directory(tmp_path / "c").text(["a cat"]).shape == (1, 8)


def test_tower_names_contain_the_shape():
    import timm

    register_tower(tower_name((8, 12), (0, 2)))
    assert [b.conv1.out_channels for b in timm.create_model("ddpm_resnet_8x12_0x2").stages] == [12, 12]
    with pytest.raises(ValueError, match="no image tower"):
        register_tower("resnet50")


@pytest.mark.parametrize("shape", [(2, 2, 32, 32), (0, 3, 32, 32), (3, 32, 32)])
def test_other_shapes_are_refused(tiny, shape):
    with pytest.raises(ValueError, match="CLIP accepts uint8"):
        open_clip_directory(tiny).images(torch.zeros(shape, dtype=torch.uint8))


# -- by name ----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def hf_cache(tmp_path, monkeypatch):
    """An empty Hugging Face cache; ViT-B-32 is a tiny network of that layout."""
    import huggingface_hub
    import open_clip.factory

    cache = tmp_path / "hf"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "ViT-B-32", VIT)
    return cache


def cached(cache, name="open_clip_model.safetensors"):
    """Write tiny weights of VIT where huggingface_hub keeps those of laion2b_s34b_b79k."""
    torch.manual_seed(1)
    model = open_clip.CLIP(**VIT)
    place = cache / ("models--" + HF_REPO.replace("/", "--"))
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots" / "abc").mkdir(parents=True)
    save_file(model.state_dict(), place / "snapshots" / "abc" / name)
    return place / "snapshots" / "abc" / name, model.eval()


def no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(hub, "reachable", refuse)


def test_a_cached_model_needs_no_network(hf_cache, monkeypatch):
    file, model = cached(hf_cache)
    no_network(monkeypatch)
    clip = load_clip(clip_labels.DEFAULT_HUB)
    assert load_clip(clip_labels.DEFAULT_HUB) is clip  # held
    assert clip.image_size == 32 and clip.digest == files.file_digest(file)
    preprocess = open_clip.image_transform(
        32, is_train=False, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711)
    )
    from PIL import Image

    images = pictures(2)
    batch = torch.stack([preprocess(Image.fromarray(i.permute(1, 2, 0).numpy())) for i in images])
    with torch.no_grad():
        assert torch.allclose(clip.images(images), model.encode_image(batch, normalize=True), atol=1e-4)
        assert torch.allclose(
            clip.text(["a cat"]), model.encode_text(open_clip.get_tokenizer("ViT-B-32")(["a cat"]), normalize=True), atol=1e-5
        )


def test_the_activation_is_that_of_the_weights(hf_cache, monkeypatch):
    """OpenAI's weights want QuickGELU; open_clip itself would only warn and compute with another one."""
    from open_clip.transformer import QuickGELU

    seen = {}
    monkeypatch.setattr(clip_labels, "_fetch", lambda name, tags, report: seen.setdefault("file", hf_cache / "openai.safetensors"))
    hf_cache.mkdir()
    save_file(open_clip.CLIP(**VIT, quick_gelu=True).state_dict(), hf_cache / "openai.safetensors")
    clip = load_clip("ViT-B-32:openai")
    assert any(isinstance(m, QuickGELU) for m in clip.model.modules())


def test_damaged_weights_in_the_cache_are_named(hf_cache):
    file, _ = cached(hf_cache)
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(ValueError, match="cannot be read .* delete .* downloaded again") as e:
        load_clip(clip_labels.DEFAULT_HUB)
    assert str(file) in str(e.value)


def test_no_network_is_known_within_three_seconds(hf_cache, monkeypatch):
    import huggingface_hub

    class Silent:
        def head(self, *_, timeout=0, **__):
            time.sleep(timeout + 5)  # a name server that does not answer

    monkeypatch.setattr(huggingface_hub, "get_session", lambda: Silent())
    begun = time.perf_counter()
    with pytest.raises(ValueError, match="not in the local cache and huggingface.co does not answer"):
        load_clip(clip_labels.DEFAULT_HUB)
    assert time.perf_counter() - begun < 3.7


def test_offline_mode_asks_no_server(hf_cache, monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    no_network(monkeypatch)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE"):
        load_clip(clip_labels.DEFAULT_HUB)


def test_a_download_reports_its_progress(hf_cache, monkeypatch):
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    file, _ = cached(hf_cache / "elsewhere")
    asked, said = [], []

    def download(repo, name, etag_timeout=10, tqdm_class=None):
        asked.append(name)
        if name.endswith(".bin"):
            with tqdm_class(total=4_000_000, disable=False) as bar:
                bar.update(1_000_000)
                bar.update(3_000_000)
            return str(file)
        raise EntryNotFoundError.__new__(EntryNotFoundError, "404")

    monkeypatch.setattr(hub, "reachable", lambda url=None, seconds=3.0: True)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    load_clip(clip_labels.DEFAULT_HUB, progress=lambda share, text: said.append((share, text)))
    assert asked == ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"]  # pickles last
    assert (0.25, f"downloading {clip_labels.DEFAULT_HUB}: 1 of 4 MB") in said and said[-1][1].startswith("opening")


@pytest.mark.parametrize("name", ["ViT-B-32:laion2b", "VIT-B-32", "", "nonsense", "../../etc/passwd", "x" * 5000])
def test_unknown_names_suggest_one(name):
    with pytest.raises(ValueError, match="no CLIP is called") as e:
        load_clip(name)
    assert len(str(e.value)) < 300
    if name == "ViT-B-32:laion2b":
        assert "ViT-B-32:laion2b_" in str(e.value)
    if name in ("nonsense", "../../etc/passwd"):  # nothing is near: the usual one
        assert clip_labels.DEFAULT_HUB in str(e.value)


def test_only_the_last_models_stay_in_memory(tiny, monkeypatch):
    monkeypatch.setattr(clip_labels, "SHIPPED", tiny)
    monkeypatch.setattr(clip_labels, "_published", lambda name, device, report: name)
    first = load_clip()
    assert load_clip() is first
    for k in range(clip_labels.KEPT):
        load_clip(f"model:{k}")
    assert len(clip_labels._LOADED) == clip_labels.KEPT and load_clip() is not first


# -- the shipped CLIP -----------------------------------------------------------------------------------------------------


def test_the_shipped_clip_agrees_with_its_card():
    place = clip_labels.SHIPPED
    files = list(place.iterdir())
    assert {"open_clip_config.json", "clip.json", "README.md"} <= {f.name for f in files}
    assert sum(f.stat().st_size for f in files) < 15_000_000 and max(f.stat().st_size for f in files) < 10_000_000
    facts, card = json.loads((place / "clip.json").read_text()), (place / "README.md").read_text()
    metrics = {m["name"]: m for m in facts["metrics"]}
    assert metrics["zero-shot accuracy"]["value"] >= 0.85 and metrics["zero-shot accuracy"]["n"] == 10_000
    assert all(f"{m['value']:.2%}" in card for m in metrics.values()) and "It knows CIFAR-10 only" in card
    assert "no independent judge" in card and facts["image_tower_digest"][:12] in card
    docs = (place.parents[2] / "docs" / "models.md").read_text()
    assert all(f"{100 * m['value']:.2f} %" in docs for m in metrics.values())


def test_the_shipped_clip_reproduces_its_numbers_on_real_images():
    """Within chance of what its card measured on all of them."""
    from ddpm_app.classifiers.clip_scores import class_prompts, score
    from ddpm_app.images.datasets import load_data
    from ddpm_app.paths import data_roots

    if not any((root / "cifar10-test.npz").is_file() for root in data_roots()):
        pytest.skip("no CIFAR-10 here")
    clip, test = load_clip(), load_data("cifar10", "test")
    s = score(clip.images(test.images[:400]), clip.text(class_prompts(test.classes)), test.labels[:400])
    assert s.matching == pytest.approx(clip.card["real"]["matching"], abs=0.06)  # four standard errors
    assert s.average_top1 == pytest.approx(clip.card["real"]["average_top1"], abs=0.03)
    assert clip.unknown_words("a photo of a tabby cat, a type of cat") == [] and clip.unknown_words("a zeppelin") == ["zeppelin"]
