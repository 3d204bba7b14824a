"""Train, watch, steer and measure denoising diffusion models on small images. README.md shows the folders.

    import ddpm_app

    images, labels = ddpm_app.sample(checkpoint="cifar10", label="cat", n=4)   # uint8 (4, 32, 32, 3)
    denoiser = ddpm_app.load("mnist")                                          # D(x, sigma, label) -> predicted x0

The names of __all__ are imported when they are first used, so that `import ddpm_app` does not load torch.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ddpm_app.diffusion.denoiser import Denoiser
    from ddpm_app.diffusion.samplers import SAMPLERS
    from ddpm_app.diffusion.schedules import make_schedule
    from ddpm_app.networks.unet import UNet
    from ddpm_app.studio.request import Request
    from ddpm_app.studio.studio import Studio

__version__ = "0.1.0"
__all__ = ["SAMPLERS", "Denoiser", "Request", "Studio", "UNet", "__version__", "load", "make_schedule", "sample"]

MODULES = {  # where an exported name is defined
    "Denoiser": "diffusion.denoiser",
    "SAMPLERS": "diffusion.samplers",
    "make_schedule": "diffusion.schedules",
    "UNet": "networks.unet",
    "Request": "studio.request",
    "Studio": "studio.studio",
}


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load(source: str | Path = "", device: str = "auto", precision: str = "auto") -> Denoiser:
    """The Denoiser of a checkpoint: D(x (B, C, H, W), sigma, label (B,) int64 or None) is the predicted x0, in model space [-1, 1].

    source:    a name in checkpoints/ or runs/, a folder, or a Hugging Face repo id such as user/model; empty means the default model
    device:    auto, cpu, cuda, mps
    precision: auto, bf16, fp32
    Its `network`, `schedule` and `device` are attributes. Raises ValueError for a model that is missing or damaged."""
    from ddpm_app.studio.studio import Studio

    studio = Studio(device=device, precision=precision)
    source = str(source) or studio.default()
    here = source in studio.checkpoints() or (Path(source) / "config.json").is_file() or "/" not in source
    return studio.denoiser(studio.checkpoint(source) if here else studio.add(source))


def sample(device: str = "auto", precision: str = "auto", backend: str = "auto", **fields: Any) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 (n, H, W, C), labels int64 (n,), -1 for none) of a Request with these fields.

    Without `checkpoint` the default model is used. Each call reads the model again; a Studio keeps it in memory.
    Raises ValueError, and TypeError for a field that Request does not have."""
    from ddpm_app.studio.studio import Studio

    studio = Studio(device=device, precision=precision, backend=backend)
    return studio.images(studio.request(**fields))
