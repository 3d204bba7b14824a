"""Feature networks of distances: the classifier, CLIP, torch-fidelity's Inception.

Each is registered with torch-fidelity as a feature extractor, so that torch-fidelity's functions and command line give the same numbers.
The features of a set of images are computed once and cached under a hash of the pixels and of the network.
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

FORMAT = 1  # of cached features; raise it if a network's features of the same pixels change
KINDS = ("classifier", "clip", "inception")
LEGACY = "6726825d"  # start of the SHA-256 of torch-fidelity's conversion of the 2015 TensorFlow Inception, which the literature uses
BATCH = 256


@dataclass(frozen=True)
class Extractor:
    """A feature network.

    kind:     one of KINDS
    key:      its name in torch-fidelity's registry
    digest:   SHA-256 of the weights
    layers:   names of its outputs
    layer:    the output that distances use
    dims:     dimensions of that output
    about:    its name in a protocol
    shape:    (C, H, W) of accepted images; None accepts any grey or RGB images
    network:  torch-fidelity's module
    device:   of the network
    source:   the name that it was loaded by
    """

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
        """uint8 (B, C, H, W) -> {layer: (B, D) float32 on the CPU}. Raises ValueError for images of another shape."""
        if self.shape is None and images.shape[1] == 1:
            images = images.expand(-1, 3, -1, -1)
        if self.shape is not None and tuple(images.shape[1:]) != self.shape:
            raise ValueError(f"the {self.about} reads images {self.shape}, not {tuple(images.shape[1:])}")
        features = self.network.convert_features_tuple_to_dict(self.network(images.to(self.device)))
        return {k: v.float().cpu() for k, v in features.items()}


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
            features = compute(images)
            return tuple(features[name].to(images.device) for name in self.features_list)

    FEATURE_EXTRACTORS_REGISTRY.pop(key, None)  # the same weights may be registered for another device
    register_feature_extractor(key, Registered)


def _created(key: str, layers: tuple[str, ...], device: torch.device, **options) -> torch.nn.Module:
    from torch_fidelity.utils import create_feature_extractor

    return create_feature_extractor(key, list(layers), cuda=False, verbose=False, **options).to(device)


def classifier_features(classifier: Classifier) -> Extractor:
    """Layers "features" (N, D), the inputs of the last layer, and "logits" (N, K)."""
    config, head = classifier.config, classifier.network.head

    def compute(images: Tensor) -> dict[str, Tensor]:
        features = classifier.features(images)
        return {"features": features, "logits": head(features.to(classifier.device)).cpu()}

    layers, key = ("features", "logits"), f"classifier-{config.data}-{classifier.digest[:8]}"
    register(key, layers, {"isc": "logits", "fid": "features", "kid": "features", "prc": "features"}, compute)
    network, shape, about = _created(key, layers, classifier.device), config.image_shape, f"{config.data} classifier"
    return Extractor("classifier", key, classifier.digest, layers, "features", head.in_features, about, shape, network, classifier.device)


def clip_features(clip) -> Extractor:
    """clip: a Clip of classifiers/clip.py. One layer, "features": unit vectors (N, D)."""
    layers, key = ("features",), f"clip-{clip.name.replace('/', '-').replace(':', '-')}-{clip.digest[:8]}"
    register(key, layers, dict.fromkeys(("fid", "kid", "prc"), "features"), lambda images: {"features": clip.images(images)})
    dims = clip.images(torch.zeros(1, 3, clip.image_size, clip.image_size, dtype=torch.uint8)).shape[1]
    about = "CLIP that ships" if clip.name == "shipped" else f"CLIP {clip.name}"
    return Extractor(
        "clip", key, clip.digest, layers, "features", dims, about, None, _created(key, layers, clip.device), clip.device, clip.name
    )


# -- Inception --------------------------------------------------------------------------------------------------------------


def inception_features(weights: str = "", device: torch.device | str = "cpu") -> Extractor:
    """torch-fidelity's Inception v3. Layers "2048" for FID and KID, and "logits_unbiased" for the inception score.

    weights: a file or a URL; by default torch-fidelity's URL, downloaded once. Raises ValueError if they cannot be read or downloaded."""
    path = inception_weights(weights)
    layers, device = ("2048", "logits_unbiased"), torch.device(device)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        torch.load(path, map_location="cpu", weights_only=True)  # torch-fidelity would run the code in a pickle
        network = _created("inception-v3-compat", layers, device, feature_extractor_weights_path=str(path))
    except Exception as error:  # torch raises many types for such files
        raise ValueError(
            f"{path} ({path.stat().st_size:,} bytes) does not hold the weights of torch-fidelity's Inception; it is damaged or another file"
        ) from error
    about = "Inception v3" + (", legacy TensorFlow weights" if digest.startswith(LEGACY) else ", weights that are not the literature's")
    return Extractor("inception", f"inception-{digest[:8]}", digest, layers, "2048", 2048, about, None, network, device)


def inception_weights(source: str = "") -> Path:
    """The file of the weights. source: a file, or a URL to download into torch's hub cache (default torch-fidelity's)"""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    if source and "://" not in source:
        path = Path(source).expanduser()
        if not path.is_file():
            raise ValueError(f"there are no Inception weights at {source}")
        return path
    url = source or URL_INCEPTION_V3
    if not url.startswith(("https://", "http://", "file://")):
        raise ValueError(f"{url} is not an http(s) address")
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
    except Exception as error:  # of the connection or the disk
        raise ValueError(f"Inception's weights could not be downloaded from {url} ({' '.join(str(error).split())[:160]})") from error
    return path


# -- features once per set ----------------------------------------------------------------------------------------------------


def features_of(extractor: Extractor, images: Images, what: str, cache: bool = True) -> Iterator[Progress]:
    """Yield Progress for each batch; return {layer: (N, D) float32, "mean": (D,), "cov": (D, D)}, the last two float64, of
    extractor.layer. Images are read once, batch by batch.

    Raises ValueError for images that the network does not accept, and for features that are infinite or NaN."""
    file = None
    if cache:
        key = hashlib.sha256(f"{FORMAT} {extractor.key} {extractor.digest} {extractor.layers} {images.digest()}".encode()).hexdigest()
        file = cache_dir("evaluation") / "features" / f"{key[:32]}.safetensors"
        features = cached(file, extractor, images.n)
        if features is not None:
            return features
    parts: dict[str, list[Tensor]] = {layer: [] for layer in extractor.layers}
    for a in range(0, images.n, BATCH):
        b = min(a + BATCH, images.n)
        for layer, value in extractor(images.part(a, b)).items():
            parts[layer].append(value)
        yield Progress(f"{extractor.kind} features of {what}", b, images.n)
    features = {layer: torch.cat(values) for layer, values in parts.items()}
    if not all(value.isfinite().all() for value in features.values()):
        raise ValueError(f"the {extractor.about} gives infinities or NaN for {what}")
    if images.n > 1:
        features |= dict(zip(("mean", "cov"), statistics(features[extractor.layer])[1:]))
    if file is not None:
        save_cached(file, features)
    return features


def stats(features: dict[str, Tensor], extractor: Extractor) -> Stats:
    """Mean and covariance from the result of features_of. Raises ValueError for one image."""
    if "cov" not in features:
        raise ValueError("a covariance needs at least 2 images")
    return Stats(len(features[extractor.layer]), features["mean"], features["cov"])


def cached(file: Path, extractor: Extractor, n: int) -> dict[str, Tensor] | None:
    """Features from a cache file; None if it lacks some or is damaged."""
    features = load_cached(file)
    wanted = {*extractor.layers, *(("mean", "cov") if n > 1 else ())}
    whole = set(features) == wanted and all(len(features[k]) == n and features[k].isfinite().all() for k in extractor.layers)
    return features if whole else None
