"""Settings in a PNG: written and read back unchanged; everything else is refused."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ddpm_app.images.decode import PictureError
from ddpm_app.studio.png_settings import KEYS, KEYWORD, read, write

PICTURE = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
FULL = {
    "checkpoint": "someone/cifar10-small_v1.2",
    "label": 3,
    "guidance": 1.5,
    "sampler": "dpmpp-2m",
    "evaluations": 20,
    "grid": "uniform-t",
    "eta": 0.0,
    "churn": 40.0,
    "seed": 2**63 - 1,
    "rescale": 0.7,
    "interval_low": 0.0,
    "interval_high": 1e6,
    "precision": "bf16",
    "text": 'a "red" car, ünïcode',
    "text_scale": 100.0,
    "text_through": "x0",
    "classifier_scale": 2.5,
    "steer_low": 0.1,
    "steer_high": 9.0,
}


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(*chunks: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")


def embedded(text: str | bytes) -> bytes:
    return png(chunk(b"tEXt", KEYWORD.encode() + b"\0" + (text.encode() if isinstance(text, str) else text)))


def settings(**values) -> bytes:
    return embedded(json.dumps({"version": 1, **values}))


def refused(source, *words: str) -> None:
    with pytest.raises(PictureError) as caught:
        read(source)
    text = str(caught.value)
    assert text.endswith(".") and "\n" not in text and len(text) < 200
    for word in words:
        assert word in text


def test_settings_are_read_back(tmp_path):
    assert set(FULL) == set(KEYS)
    data = write(PICTURE, FULL)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), np.asarray(PICTURE))
    (tmp_path / "a.png").write_bytes(data)
    for source in (data, tmp_path / "a.png", str(tmp_path / "a.png")):
        assert read(source) == FULL
    for some in ({}, {"label": None}, {"label": -1}, {"seed": 0, "guidance": 2}):
        assert read(write(PICTURE, some)) == some
    text = Image.open(io.BytesIO(data)).text[KEYWORD]  # other programs find it under its name
    assert json.loads(text) == {"version": 1, **FULL}
    assert read(write(Image.new("L", (4, 4)), FULL)) == FULL


@pytest.mark.parametrize("after", [False, True])
def test_other_programs_chunks_are_read(after):
    text = json.dumps({"version": 1, "seed": 5})
    keyword = KEYWORD.encode() + b"\0"
    assert read(png(chunk(b"zTXt", keyword + b"\0" + zlib.compress(text.encode())))) == {"seed": 5}
    assert read(png(chunk(b"iTXt", keyword + b"\1\0en\0x\0" + zlib.compress(text.encode())))) == {"seed": 5}
    assert read(png(chunk(b"iTXt", keyword + b"\0\0\0\0" + text.encode()))) == {"seed": 5}
    info = PngInfo()
    info.add_text("Comment", "x" * 500)
    info.add_itxt(KEYWORD, text, zip=after)
    out = io.BytesIO()
    PICTURE.save(out, "PNG", pnginfo=info)
    assert read(out.getvalue()) == {"seed": 5}


def test_unknown_keys_are_left_out():
    assert read(settings(seed=5, __class__="os.system", script="<script>", nested={"a": [1]})) == {"seed": 5}


def test_write_refuses_what_it_could_not_read_back():
    with pytest.raises(ValueError, match="colour"):
        write(PICTURE, {"colour": 1})
    for bad in ({"seed": -1}, {"guidance": float("nan")}, {"interval_high": float("inf")}, {"checkpoint": "/etc/passwd"}):
        with pytest.raises(PictureError, match=next(iter(bad))):
            write(PICTURE, bad)


BAD = {
    "checkpoint": [
        "",
        "/etc/passwd",
        "../secret",
        "a/../../b",
        "a\\b",
        "-rf",
        "x" * 201,
        "a\n",
        "a\0",
        5,
        None,
        ["a"],
        {"a": 1},
    ],
    "label": [-2, 100_000, 1.0, "3", True, [1], {}, 10**30],
    "guidance": [-0.1, 20.1, "1", None, True, [], {}, 10**400, -(10**400)],
    "sampler": ["", "x" * 41, "a b", "<b>", 1, None, ["ddim"]],
    "evaluations": [0, 1001, 10**9, -1, 1.5, 20.0, "20", None, True],
    "grid": ["x" * 41, "../x", {}, 1],
    "eta": [-1e-9, 1.01, "0", None],
    "churn": [-1, 101, None],
    "seed": [-1, 2**63, 1.0, "1", None, False, 10**100],
    "rescale": [1.1, -1, None],
    "interval_low": [-1, 1e7, None],
    "interval_high": [-1, 1e7, None],
    "precision": ["'; rm", "x" * 41, None, 16],
    "text": ["", "x" * 301, "a\nb", "a\0", 5, None, ["a"]],
    "text_scale": [-1, 501, "1", None, True],
    "text_through": ["", "a b", 1, None],
    "classifier_scale": [-1, 51, None],
    "steer_low": [-1, 1e7, None],
    "steer_high": [-1, 1e7, None],
}


@pytest.mark.parametrize("key", KEYS)
def test_values_out_of_type_or_range(key):
    for value in BAD[key]:
        refused(settings(**{key: value}), key)


def test_an_interval_with_low_above_high_is_refused():
    refused(settings(interval_low=2, interval_high=1), "interval_low")
    refused(settings(steer_low=2, steer_high=1), "steer_low")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"])
def test_nan_and_infinity_are_refused(number):
    refused(embedded('{"version":1,"guidance":' + number + "}"))


@pytest.mark.parametrize("version", [0, 2, "1", None, True, [1], {}, 1e300])
def test_unknown_versions(version):
    refused(embedded(json.dumps({"version": version, "seed": 5})), "version")
    refused(embedded('{"seed": 5}'), "version")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "seed=5",
        "[1, 2]",
        "5",
        '"x"',
        "null",
        "[" * 60_000,
        '{"a":' * 10_000,
        "1" * 60_000,
        '{"version":1,"seed":%s}' % ("9" * 5000),
        b"\xff\xfe{}",
    ],
)
def test_damaged_json(text):
    refused(embedded(text))


def test_files_without_settings_are_refused(tmp_path):
    refused(b"", "empty")
    refused(tmp_path / "none.png", "no such")
    refused(tmp_path, "no such")
    out = io.BytesIO()
    PICTURE.save(out, "JPEG")
    refused(out.getvalue(), "PNG")
    refused(b"plain text", "PNG")
    refused(png(), "no settings")
    refused(png(chunk(b"tEXt", b"Comment\0" + KEYWORD.encode())), "no settings")
    refused(png(chunk(b"tEXt", KEYWORD.encode() + b"-2\0{}")), "no settings")
    with (tmp_path / "big.png").open("wb") as f:
        f.write(write(PICTURE, FULL))
        f.truncate(33 * 2**20)
    refused(tmp_path / "big.png", "32 MB")


def test_every_truncation_is_whole_or_refused():
    data = write(PICTURE, FULL)
    for n in range(1, len(data)):
        try:
            assert read(data[:n]) == FULL
        except PictureError:
            pass


def test_every_flipped_byte_is_noticed():
    data = write(PICTURE, FULL)
    start = data.index(b"tEXt")
    for position in range(start + 4, data.index(b"IDAT") - 4):
        broken = bytearray(data)
        broken[position] ^= 1
        refused(bytes(broken))


def test_too_long_and_compressed_bombs_stay_small():
    keyword = KEYWORD.encode() + b"\0"
    bomb = zlib.compress(bytes(200_000_000), 9)  # 195 kB
    many = zlib.compress(b" " * 20_000_000, 9)
    assert len(many) < 64 * 1024
    files = [
        png(chunk(b"tEXt", keyword + b" " * 70_000)),
        png(chunk(b"tEXt", keyword + b" " * 65_600)),
        png(chunk(b"zTXt", keyword + b"\0" + bomb)),
        png(chunk(b"zTXt", keyword + b"\0" + many)),
        png(chunk(b"iTXt", keyword + b"\1\0\0\0" + many)),
    ]
    tracemalloc.start()
    for data in files:
        refused(data, "64 kB")
    assert tracemalloc.get_traced_memory()[1] < 2e6
    tracemalloc.stop()
    refused(png(chunk(b"zTXt", keyword + b"\0" + zlib.compress(b"{}" * 99)[:-6])), "damaged")
    refused(png(chunk(b"iTXt", keyword)), "damaged")


def test_reading_stops_after_many_chunks():
    assert read(png(*[chunk(b"tEXt", b"a\0b")] * 100, embedded_chunk())) == {"seed": 5}
    refused(png(*[chunk(b"tEXt", b"")] * 300_000, embedded_chunk()), "no settings")


def embedded_chunk() -> bytes:
    return chunk(b"tEXt", KEYWORD.encode() + b'\0{"version":1,"seed":5}')
