"""The use cases: each takes a request and gives frames or numbers. The page, the CLI and the API call them and get identical pixels.

request.py       a sampling request, its accepted values, and the same request as Python and as a command
presets.py       Fast, Good and Exact: sampler, evaluations, grid and guidance
studio.py        checkpoints in memory, and sampling as an iterator of frames
backend.py       PyTorch or OpenVINO: the choice, and int8 measured against float32
forward.py       the forward process on an image: x_t at chosen times
steering.py      guidance and re-ranking by CLIP and by classifiers
png_settings.py  settings inside a PNG
exports.py       PNGs with their settings, ZIPs, animations
compression.py   bits per dimension of images, progressive coding
interpolate.py   images between two images or two seeds
recordings.py    runs of the shipped models as small files, which the page plays
clip_report.py   CLIP's labels of images, compared with its labels of real images
"""

from importlib import import_module

_MODULES = {"Frame": "studio", "Request": "request", "Studio": "studio"}
__all__ = ["Frame", "Request", "Studio"]


def __getattr__(name: str):
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
