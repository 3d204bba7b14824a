"""Feature networks that distances are measured in: our classifier, the shipped CLIP, torch-fidelity's Inception.

Each is a feature extractor registered with torch-fidelity, so that its own functions and command line see the same numbers.
Features are computed once per set of images and kept in a cache under a hash of the pixels and of the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ddpm_app.checkpoints.hub import reachable
from ddpm_app.classifiers.classifier import Classifier
from ddpm_app.evaluation.cache import load_cached, save_cached
from ddpm_app.evaluation.distances import Stats, statistics
from ddpm_app.images.sets import Images, Progress
from ddpm_app.paths import cache_dir

FORMAT = 1  # of cached features; raise it when what a network gives for the same pixels changes
KINDS = ("classifier", "clip", "inception")
LEGACY = "6726825d"  # SHA-256 of torch-fidelity's conversion of the 2015 TensorFlow Inception begins so: the FID of the literature
BATCH = 256


@dataclass(frozen=True)
class Extractor:
    """kind: one of KINDS. key: its name in torch-fidelity's registry. digest: SHA-256 of the weights. layers: what one pass gives.
    layer: the one distances are measured in, of `dims` dimensions. about: for a protocol. shape: (C, H, W) it takes, None: any RGB.
    source: what it was asked for as."""

    kind: str
    key: str
    digest: str
    layers: tuple[str, ...]
    layer: str
    dims: int
    about: str
    shape: tuple[int, int, int] | None
    network: torch.nn.Module
    device: torch.device
    source: str = ""

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """uint8 (B, C, H, W) -> {layer: (B, D) float32 on the CPU}."""
        if self.shape is None and images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if self.shape is not None and tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"the {self.about} reads images {self.shape}, not {tuple(images.shape[1:])}")
        found = self.network.convert_features_tuple_to_dict(self.network(images.to(self.device)))
        return {k: v.float().cpu() for k, v in found.items()}


def register(key: str, layers: tuple[str, ...], defaults: dict[str, str], compute: Callable[[Tensor], dict[str, Tensor]]) -> None:
    """Make compute, uint8 (B, C, H, W) -> {layer: (B, D)}, a feature extractor of torch-fidelity. defaults: metric -> its layer."""
    from torch_fidelity import FeatureExtractorBase, register_feature_extractor
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    class Registered(FeatureExtractorBase):
        def __init__(self, name, features_list, **kwargs):
            super().__init__(name, features_list)

        @staticmethod
        def get_provided_features_list():
            return layers

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return defaults[metric]

        @staticmethod
        def can_be_compiled():
            return False

        def forward(self, images):
            found = compute(images)
            return tuple(found[name].to(images.device) for name in self.features_list)

    FEATURE_EXTRACTORS_REGISTRY.pop(key, None)  # the same weights again, perhaps on another device
    register_feature_extractor(key, Registered)


def _created(key: str, layers: tuple[str, ...], device: torch.device, **options) -> torch.nn.Module:
    from torch_fidelity.utils import create_feature_extractor

    return create_feature_extractor(key, list(layers), cuda=False, verbose=False, **options).to(device)


def classifier_features(classifier: Classifier) -> Extractor:
    """Layers "features" (N, D), those in front of the last layer, and "logits" (N, K)."""
    config, head = classifier.config, classifier.network.head

    def compute(images: Tensor) -> dict[str, Tensor]:
        features = classifier.features(images)
        return {"features": features, "logits": head(features.to(classifier.device)).cpu()}

    layers, key = ("features", "logits"), f"classifier-{config.data}-{classifier.digest[:8]}"
    register(key, layers, {"isc": "logits", "fid": "features", "kid": "features", "prc": "features"}, compute)
    shape = (config.in_channels, config.image_size, config.image_size)
    about = f"{config.data} classifier"
    network = _created(key, layers, classifier.device)
    return Extractor("classifier", key, classifier.digest, layers, "features", head.in_features, about, shape, network, classifier.device)


def clip_features(clip) -> Extractor:
    """A clip_labels.Clip. One layer, "features": unit vectors (N, D)."""
    layers, key = ("features",), f"clip-{clip.name.replace('/', '-').replace(':', '-')}-{clip.digest[:8]}"
    register(key, layers, dict.fromkeys(("fid", "kid", "prc"), "features"), lambda images: {"features": clip.images(images)})
    dims = clip.images(torch.zeros(1, 3, clip.image_size, clip.image_size, dtype=torch.uint8)).shape[1]
    about = "CLIP that ships" if clip.name == "shipped" else f"CLIP {clip.name}"
    return Extractor(
        "clip", key, clip.digest, layers, "features", dims, about, None, _created(key, layers, clip.device), clip.device, clip.name
    )


# -- Inception --------------------------------------------------------------------------------------------------------------


def inception_features(weights: str = "", device: torch.device | str = "cpu") -> Extractor:
    """torch-fidelity's Inception v3. Layers "2048", which FID and KID are measured in, and "logits_unbiased" for the score.

    weights: a file or a URL; by default torch-fidelity's, downloaded once. Raises ValueError within seconds where they cannot be had."""
    path = inception_weights(weights)
    layers, device = ("2048", "logits_unbiased"), torch.device(device)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity would run whatever a pickle says
        network = _created("inception-v3-compat", layers, device, feature_extractor_weights_path=str(path))
    except Exception as error:  # torch raises many kinds for a file that is none, or another network's
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) does not hold the weights of torch-fidelity's Inception: cut short, or another file"
        ) from error
    about = "Inception v3" + (", legacy TensorFlow weights" if digest.startswith(LEGACY) else ", weights that are not the literature's")
    return Extractor("inception", f"inception-{digest[:8]}", digest, layers, "2048", 2048, about, None, network, device)


def inception_weights(source: str = "") -> Path:
    """The weights' file: source if it is one, else what source (a URL; torch-fidelity's by default) gives, kept in torch's hub cache."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    if source and "://" not in source:
        path = Path(source).expanduser()
        if not path.is_file():
            raise ValueError(f"there are no Inception weights at {source}")
        return path
    url = source or URL_INCEPTION_V3
    if not url.startswith(("https://", "http://", "file://")):
        raise ValueError(f"{url} is no http(s) address")
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if path.is_file():
        return path
    if not reachable(url):
        raise ValueError(
            f"Inception's weights are not here, and {url.split('/')[2] or url} does not answer (no network?); --inception takes a file"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), LEGACY if not source else None, progress=True)
    except Exception as error:  # whatever the connection or the disk met
        raise ValueError(f"Inception's weights could not be downloaded from {url} ({' '.join(str(error).split())[:160]})") from error
    return path


# -- features once per set ----------------------------------------------------------------------------------------------------


def features_of(extractor: Extractor, images: Images, what: str, cache: bool = True) -> Iterator[Progress]:
    """Yield Progress a batch; return {layer: (N, D) float32, "mean" (D,), "cov" (D, D) float64 of the layer distances are measured
    in}. One pass; beyond the features one batch is in memory.

    Raises ValueError for images the network does not take, and for features that are no numbers."""
    file = None
    if cache:
        key = hashlib.sha256(f"{FORMAT} {extractor.key} {extractor.digest} {extractor.layers} {images.digest()}".encode()).hexdigest()
        file = cache_dir("evaluation") / "features" / f"{key[:32]}.safetensors"
        found = cached(file, extractor, images.n)
        if found is not None:
            return found
    parts: dict[str, list[Tensor]] = {layer: [] for layer in extractor.layers}
    for a in range(0, images.n, BATCH):
        b = min(a + BATCH, images.n)
        for layer, value in extractor(images.part(a, b)).items():
            parts[layer].append(value)
        yield Progress(f"{extractor.kind} features of {what}", b, images.n)
    found = {layer: torch.cat(values) for layer, values in parts.items()}
    if not all(value.isfinite().all() for value in found.values()):
        raise ValueError(f"the {extractor.about} gives infinities or NaN for {what}")
    if images.n > 1:
        found |= dict(zip(("mean", "cov"), statistics(found[extractor.layer])[1:]))
    if file is not None:
        save_cached(file, found)
    return found


def stats(found: dict[str, Tensor], extractor: Extractor) -> Stats:
    """Mean and covariance out of what features_of returned."""
    if "cov" not in found:
        raise ValueError("a covariance needs at least 2 images")
    return Stats(len(found[extractor.layer]), found["mean"], found["cov"])


def cached(file: Path, extractor: Extractor, n: int) -> dict[str, Tensor] | None:
    """Features from a cache file, None where it does not hold what is wanted, whole."""
    found = load_cached(file)
    wanted = {*extractor.layers, *(("mean", "cov") if n > 1 else ())}
    whole = set(found) == wanted and all(len(found[k]) == n and found[k].isfinite().all() for k in extractor.layers)
    return found if whole else None
