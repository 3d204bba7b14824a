"""Writes settings into a PNG and reads them back. A PNG that is read is not trusted.

The settings are one text chunk named "ddpm-studio" holding compact JSON: {"version": 1, "checkpoint": "cifar10", "seed": 7, ...}.
Reading walks the chunks of the file itself and never decodes the picture.
"""

from __future__ import annotations

import io
import json
import math
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddpm_app.flags import check_choice, default_of, settings_of
from ddpm_app.images.decode import PictureError, read_bytes
from ddpm_app.studio.request import MAX_TEXT, Request

KEYWORD = "ddpm-studio"
VERSION = 1
MAX_CHUNK = 64 * 1024  # bytes of settings, before and after decompression
MAX_CHUNKS = 50_000  # of any kind in one file
MAX_SIGMA = 1e6
SIGNATURE = b"\x89PNG\r\n\x1a\n"

Check = Callable[[object], object]  # returns the value, or raises ValueError saying what is accepted


def _integer(low: int, high: int, null: bool = False) -> Check:
    def check(value):
        if null and value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"a whole number from {low} to {high}")
        return value

    return check


def _number(low: float, high: float) -> Check:
    def check(value):  # the comparison comes first: float() of a huge integer would fail; NaN compares as False
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise ValueError(f"a number from {low:g} to {high:g}")
        return float(value)

    return check


def _text(limit: int, pattern: str, description: str) -> Check:
    def check(value):
        if not isinstance(value, str) or not 1 <= len(value) <= limit or not re.fullmatch(pattern, value, re.ASCII) or ".." in value:
            raise ValueError(f"{description} of at most {limit} characters")
        return value

    return check


def _prompt(limit: int) -> Check:
    def check(value):
        if not isinstance(value, str) or not 1 <= len(value) <= limit or not value.isprintable():
            raise ValueError(f"one line of at most {limit} letters")
        return value

    return check


_NAME = _text(40, r"[A-Za-z0-9][A-Za-z0-9._+-]*", "a name")


def _as_in_request(name: str) -> Check:
    """The check of a field of Request: the bounds of a number; of a choice only the form, not whether such a sampler exists."""
    accepted, default = settings_of(Request)[name], default_of(Request, name)
    if accepted.choices is not None:
        return _NAME
    high = MAX_SIGMA if accepted.high is None else accepted.high  # only the fields that hold a sigma have no upper bound
    return _integer(accepted.low, high) if isinstance(default, int) else _number(accepted.low or 0, high)


# The accepted keys with a check of each value. The page, the command line and a PNG accept the same numbers.
KEYS: dict[str, Check] = {
    "checkpoint": _text(200, r"[^-/\\\x00-\x1f\x7f][^\\\x00-\x1f\x7f]*", "the relative name of a model"),  # a name or repository id
    "label": _integer(-1, 99_999, null=True),  # -1: any class; null: no class
    **{name: _as_in_request(name) for name in ("guidance", "sampler", "evaluations", "grid", "eta", "churn")},
    "seed": _integer(0, 2**63 - 1),  # of one image, which may be above the limit for the first image of a request
    **{name: _as_in_request(name) for name in ("rescale", "interval_low", "interval_high")},
    "precision": _NAME,
    "text": _prompt(MAX_TEXT),
    **{name: _as_in_request(name) for name in ("text_scale", "text_through", "classifier_scale", "steer_low", "steer_high")},
}


def validated(settings: dict) -> dict:
    """The keys of a dict that are in KEYS, each checked; other keys are left out. Raises PictureError naming the first bad value."""
    kept = {}
    for key, check in KEYS.items():
        if key in settings:
            try:
                kept[key] = check(settings[key])
            except ValueError as error:
                raise PictureError(f"The settings in this picture cannot be used: {key} must be {error}.") from error
    for kind in ("interval", "steer"):
        if kept.get(f"{kind}_low", 0) > kept.get(f"{kind}_high", math.inf):
            raise PictureError(f"The settings in this picture cannot be used: {kind}_low is above {kind}_high.")
    return kept


def write(picture: Image.Image, settings: dict) -> bytes:
    """The picture as PNG with the settings inside. Raises PictureError for values out of range, ValueError for unknown keys."""
    for key in settings:
        check_choice("setting", key, KEYS)
    info = PngInfo()
    info.add_text(KEYWORD, json.dumps({"version": VERSION, **validated(settings)}, separators=(",", ":")))
    out = io.BytesIO()
    picture.save(out, "PNG", pnginfo=info)
    return out.getvalue()


def read(source: str | Path | bytes) -> dict:
    """The settings embedded in a PNG: known keys only, every value of its type and in its range.

    Raises PictureError, one sentence, for a file that is missing, larger than 32 MB or no PNG, for a PNG without settings, and
    for settings that are damaged, too large, of another version or out of range.
    """
    text = _embedded(read_bytes(source))
    try:
        raw = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:  # RecursionError: thousands of nested brackets
        raise PictureError("The settings in this picture are damaged (not valid JSON).") from error
    if not isinstance(raw, dict):
        raise PictureError("The settings in this picture are damaged (not a list of names and values).")
    version = raw.get("version")
    if isinstance(version, bool) or version != VERSION:
        raise PictureError(
            f"The settings in this picture were written by another version of the program (this one reads version {VERSION})."
        )
    return validated(raw)


def _no_constant(name: str):
    raise ValueError(f"{name} is no number")


def _embedded(data: bytes) -> str:
    """The text of the first chunk named KEYWORD: tEXt, zTXt or iTXt, the last two perhaps compressed."""
    if not data.startswith(SIGNATURE):
        raise PictureError("Settings are kept in PNG files only, and this is not one.")
    view, position = memoryview(data), len(SIGNATURE)
    for _ in range(MAX_CHUNKS):
        if position + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 8 + length
        if end + 4 > len(data):
            break
        if kind in (b"tEXt", b"zTXt", b"iTXt") and bytes(view[position + 8 : position + 9 + len(KEYWORD)]) == KEYWORD.encode() + b"\0":
            if length > MAX_CHUNK + 256:
                raise PictureError(_TOO_LONG)
            if zlib.crc32(view[position + 4 : end]) != struct.unpack_from(">I", data, end)[0]:
                raise PictureError("The settings in this picture are damaged (checksum).")
            return _text_of(kind, bytes(view[position + 9 + len(KEYWORD) : end]))
        if kind == b"IEND":
            break
        position = end + 4
    raise PictureError("This PNG holds no settings of DDPM Studio.")


_TOO_LONG = f"The settings in this picture are longer than {MAX_CHUNK // 1024} kB."


def _text_of(kind: bytes, body: bytes) -> str:
    """The text of a chunk. body: the chunk without its keyword and the zero after it (PNG specification, 11.3.3)."""
    try:
        if kind == b"tEXt":
            return _bounded(body).decode("latin-1")
        if kind == b"zTXt":
            return _inflate(body[1:]).decode("latin-1")
        compressed, _, rest = body[0], body[1], body[2:]
        _, _, rest = rest.partition(b"\0")  # language
        _, _, rest = rest.partition(b"\0")  # translated keyword
        return (_inflate(rest) if compressed else _bounded(rest)).decode("utf-8")
    except (zlib.error, UnicodeDecodeError, IndexError) as error:
        raise PictureError("The settings in this picture are damaged.") from error


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_CHUNK:
        raise PictureError(_TOO_LONG)
    return data


def _inflate(data: bytes) -> bytes:
    """Decompress at most MAX_CHUNK + 1 bytes, because a few kB can decompress to gigabytes."""
    stream = zlib.decompressobj()
    text = _bounded(stream.decompress(data, MAX_CHUNK + 1))
    if not stream.eof:
        raise zlib.error("incomplete")
    return text
