"""Zero-shot labels with open_clip: the CLIP that ships, or one that open_clip publishes.

    clip = load_clip()                                       # or load_clip("ViT-B-32:laion2b_s34b_b79k")
    s = score(clip.images(images), clip.text(class_prompts(CIFAR10_CLASSES)))    # both of clip_scores

Features are unit vectors, so a similarity is a cosine (Radford et al. 2021). The CLIP that ships was trained on CIFAR-10 only: see
its card in checkpoints/clip/cifar10. open_clip is imported when a model is loaded, not before.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as nnf

from ddpm_app import paths
from ddpm_app.checkpoints import hub
from ddpm_app.checkpoints.weights import digest_of_weights, half_weights, read_model, save_model
from ddpm_app.classifiers.clip_scores import check_prompts
from ddpm_app.classifiers.clip_tower import Tower, register_tower
from ddpm_app.files import file_digest, read_text, write_atomically
from ddpm_app.images.pixels import to_model
from ddpm_app.networks.resnet import folded

SHIPPED = paths.SHIPPED / "clip" / "cifar10"
DEFAULT_HUB = "ViT-B-32:laion2b_s34b_b79k"
SUGGESTED = ("shipped", DEFAULT_HUB, "ViT-B-32:openai", "ViT-B-32:datacomp_xl_s13b_b90k", "ViT-B-16:laion2b_s34b_b88k")  # offered in menus
KEPT = 3  # models kept in memory

ProgressCallback = Callable[[float, str], None]  # (share done from 0 to 1, what is being done)

_LOADED: OrderedDict[tuple[str, str], Clip] = OrderedDict()
_LOCK, _LOADING = (
    threading.Lock(),
    {True: threading.Lock(), False: threading.Lock()},
)  # a download does not block the shipped one


class Clip:
    """An open_clip model in evaluation mode and float32, without gradients of its weights.

    name: as given to load_clip
    digest: SHA-256 of its weights
    image_size: side in pixels of its input
    logit_scale: factor of the similarities before a softmax
    card: the content of its clip.json, {} for published models
    """

    def __init__(
        self, name: str, digest: str, model, tokenizer, preprocess: dict, device: torch.device | str = "cpu", card: dict | None = None
    ):
        self.name, self.digest, self.device, self.card = name, digest, torch.device(device), card or {}
        self.model = model.eval().requires_grad_(False).to(self.device, torch.float32).to(memory_format=torch.channels_last)
        self._encode, self._tokenizer = self.model.encode_image, tokenizer
        if isinstance(getattr(model.visual, "trunk", None), Tower):  # our own tower is faster with folded norms
            self._encode = copy.deepcopy(self.model.visual)
            self._encode.trunk = folded(self.model.visual.trunk)
        size = preprocess["size"]
        self.image_size = size if isinstance(size, int) else int(size[0])
        self._crop, self._bilinear = preprocess["resize_mode"] != "squash", preprocess["interpolation"] == "bilinear"
        self._mean, self._std = (torch.tensor(preprocess[k], device=self.device).view(1, 3, 1, 1) for k in ("mean", "std"))
        self.logit_scale = float(model.logit_scale.detach().exp())

    @torch.no_grad()  # not inference_mode: guidance differentiates through what this returns
    def text(self, prompts: Sequence[str]) -> Tensor:
        """P prompts -> unit vectors (P, D) float32 on the CPU. Raises ValueError as check_prompts does."""
        prompts = check_prompts(prompts)
        parts = [self.model.encode_text(self._tokenizer(prompts[i : i + 64]).to(self.device)) for i in range(0, len(prompts), 64)]
        return nnf.normalize(torch.cat(parts).float(), dim=1).cpu()

    @torch.no_grad()
    def images(self, images: Tensor, batch: int = 64) -> Tensor:
        """uint8 (N, C, H, W), C of 1 or 3 -> unit vectors (N, D) float32 on the CPU. Raises ValueError for another shape or type."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3) or not images.numel():
            raise ValueError(f"CLIP accepts uint8 (N, 1 or 3, H, W), not {str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}")
        return torch.cat([self.encode(to_model(part.to(self.device))).cpu() for part in images.split(batch)])

    def encode(self, x: Tensor) -> Tensor:
        """x (N, C, H, W) in model space -> unit vectors (N, D) on the model's device; differentiable in x."""
        x = (x.float().to(self.device) + 1) / 2
        if self._crop and x.shape[2] != x.shape[3]:
            side = min(x.shape[2:])
            top, left = (x.shape[2] - side) // 2, (x.shape[3] - side) // 2
            x = x[:, :, top : top + side, left : left + side]
        size = (self.image_size, self.image_size)
        if tuple(x.shape[2:]) != size:
            x = nnf.interpolate(x, size, mode="bilinear" if self._bilinear else "bicubic", antialias=True).clamp(0, 1)
        x = ((x - self._mean) / self._std).contiguous(memory_format=torch.channels_last)  # one grey channel becomes three
        return nnf.normalize(self._encode(x).float(), dim=1)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that were in no training caption: the vectors of their tokens are zero. [] for published models."""
        if not self.card:  # a published model
            return []
        table = self.model.token_embedding.weight

        def tokens(word: str) -> Tensor:
            return torch.tensor(self._tokenizer.encode(word), dtype=torch.long, device=table.device)

        return [w for w in re.findall(r"[^\W_]+", prompt) if not table[tokens(w)].any(1).all()]


# -- loading --------------------------------------------------------------------------------------------------------------


def load_clip(name: str = "shipped", device: torch.device | str = "cpu", progress: ProgressCallback | None = None) -> Clip:
    """A CLIP by name: "shipped", or "MODEL:PRETRAINED", a pair of open_clip's, downloaded once into the Hugging Face cache.

    The last KEPT models stay in memory. progress: called while a model is downloaded. Raises ValueError, one sentence, for an unknown
    name, a download that fails (after 3 s where no server answers) and weights that cannot be read."""
    key = (name, str(device))
    with _LOADING[name == "shipped"]:  # two requests at once load the model once
        clip = _LOADED.get(key)
        if clip is None:
            report = progress or (lambda share, text: None)
            clip = open_clip_directory(SHIPPED, device, name) if name == "shipped" else _published(name, device, report)
        with _LOCK:
            _LOADED[key] = clip
            _LOADED.move_to_end(key)
            while len(_LOADED) > KEPT:
                _LOADED.popitem(last=False)
    return clip


def open_clip_directory(path: Path | str, device: torch.device | str = "cpu", name: str = "") -> Clip:
    """Read a directory that train/train_clip.py wrote: open_clip_config.json, clip.json (its numbers), weights*.safetensors.

    Raises CheckpointError, one sentence, for anything else."""
    path = Path(path)

    def build(raw: dict):
        model, tokenizer = build_model(raw["model_cfg"])
        preprocess = {**raw["preprocess_cfg"], "size": int(raw["model_cfg"]["vision_cfg"]["image_size"])}
        return (tokenizer, preprocess, json.loads(read_text(path / "clip.json") or "{}")), model

    (tokenizer, preprocess, card), model = read_model(path, "open_clip_config.json", "CLIP that can be built", build, format=None)
    return Clip(name or path.name, digest_of_weights(path), model, tokenizer, preprocess, device, card)


def save_clip_directory(path: Path | str, model, model_cfg: dict, preprocess_cfg: dict, card: dict) -> None:
    """Write a directory for open_clip_directory: weights in float16, running statistics of the norms in float32.

    card: the content of clip.json, not empty."""
    path = Path(path)
    write_atomically(path / "clip.json", json.dumps(card, indent=1))
    save_model(path, "open_clip_config.json", {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}, half_weights(model))


def build_model(model_cfg: dict):
    """(open_clip model with random weights, its tokenizer) of an open_clip configuration with an image tower of clip_tower.py."""
    import open_clip

    register_tower(model_cfg["vision_cfg"]["timm_model_name"])
    return open_clip.CLIP(**model_cfg), open_clip.SimpleTokenizer(context_length=model_cfg["text_cfg"]["context_length"])


def published_names() -> list[str]:
    """Every "MODEL:PRETRAINED" that open_clip publishes."""
    import open_clip

    return open_clip.list_pretrained(as_str=True)


def _published(name: str, device: torch.device | str, report: ProgressCallback) -> Clip:
    import open_clip

    model_name, _, tag = name.partition(":")
    tags = open_clip.get_pretrained_cfg(model_name, tag) if tag else None
    if not tags:
        near = difflib.get_close_matches(name, published_names(), 1) or [DEFAULT_HUB]
        raise ValueError(f"no CLIP is called {name[:100]!r}; shipped, or a pair of open_clip's such as {near[0]}, is accepted")
    file = _fetch(name, tags, report)
    report(1.0, f"opening {name}")
    try:
        model = open_clip.create_model(
            model_name,
            pretrained=str(file),
            force_quick_gelu=bool(tags.get("quick_gelu")),  # open_clip only warns where the tag has another activation
            force_preprocess_cfg={k: tags[k] for k in ("mean", "std", "interpolation", "resize_mode") if k in tags},
            weights_only=True,
        )
        tokenizer = open_clip.get_tokenizer(model_name)
    except Exception as error:  # torch, safetensors and transformers raise many types for a damaged file
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        raise ValueError(f"the weights of {name} cannot be read ({reason}); delete {file} and they are downloaded again") from error
    return Clip(name, file_digest(file), model, tokenizer, open_clip.get_model_preprocess_cfg(model), device)


def _fetch(name: str, tags: dict, report: ProgressCallback) -> Path:
    """The file of weights, from the cache or else downloaded; safetensors are preferred to pickles. Raises ValueError on failure."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError
    from open_clip.constants import HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME
    from open_clip.pretrained import download_pretrained_from_url

    repo, _, filename = str(tags.get("hf_hub", "")).rpartition("/")
    wanted = [re.sub(r"\.(bin|pth)$", ".safetensors", filename), filename] if filename else [HF_SAFE_WEIGHTS_NAME, HF_WEIGHTS_NAME]
    for candidate in wanted if repo else ():
        if isinstance(cached := try_to_load_from_cache(repo, candidate), str):
            return Path(cached)
    url = "" if repo else tags["url"]
    kept = Path("~/.cache/clip").expanduser() / Path(url).name
    if url and kept.is_file():
        return kept
    if constants.HF_HUB_OFFLINE:
        raise ValueError(f"{name} is not in the local cache, and HF_HUB_OFFLINE forbids to download it; shipped needs no download")
    if not hub.reachable(url or None):
        raise ValueError(
            f"{name} is not in the local cache and {url or 'huggingface.co'} does not answer (no network?); shipped needs no download"
        )
    report(0.0, f"downloading {name}")
    try:
        if url:
            return Path(download_pretrained_from_url(url))
        has_bar = "tqdm_class" in inspect.signature(hf_hub_download).parameters
        for candidate in wanted:
            try:
                return Path(hf_hub_download(repo, candidate, etag_timeout=5, **({"tqdm_class": _bar(name, report)} if has_bar else {})))
            except EntryNotFoundError:
                continue
        raise ValueError(f"its repository {repo} holds neither {' nor '.join(wanted)}")
    except Exception as error:  # every failure of the clients, the connection or the disk
        raise ValueError(f"{name} could not be downloaded: {(str(error).splitlines() or [type(error).__name__])[0]}") from error


def _bar(name: str, report: ProgressCallback):
    """A progress bar class for huggingface_hub that passes the bytes to `report`."""
    from huggingface_hub.utils import tqdm

    class Bar(tqdm):
        def update(self, n: float | None = 1) -> bool | None:
            shown = super().update(n)
            if self.total:
                report(min(self.n / self.total, 1.0), f"downloading {name}: {self.n / 1e6:.0f} of {self.total / 1e6:.0f} MB")
            return shown

    return Bar
