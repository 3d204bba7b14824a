"""Every kind of uploaded file: it decodes to the right pixels, or is refused in one sentence."""

from __future__ import annotations

import io
import os
import struct
import threading
import tracemalloc
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from ddpm_app.images.decode import MAX_BYTES, PictureError, centre_crop, crop_box, crop_preview, open_picture, to_array

RNG = np.random.default_rng(0)
# smooth, so that JPEG keeps it, and different in every corner, so that no rotation looks like another
Y, X = np.mgrid[0:40, 0:64]
TRUTH = np.stack([X * 4 - 1 + (X == 0), Y * 6, 255 - X * 2 - Y], 2).clip(0, 255).astype(np.uint8)


def saved(image: Image.Image, format: str, **options) -> bytes:
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def png(width: int, height: int, colour: int = 2, depth: int = 8, idat: bytes = b"") -> bytes:
    """A PNG by hand whose header may promise anything."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", idat or zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def refused(source, *words: str) -> str:
    with pytest.raises(PictureError) as caught:
        open_picture(source)
    text = str(caught.value)
    assert text.endswith(".") and text.count("\n") == 0 and len(text) < 160 and "/" not in text.replace("and/or", "")
    for word in words:
        assert word in text
    return text


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_accepted_formats_give_their_pixels(format, tmp_path):
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    data = saved(Image.fromarray(TRUTH), format, **options)
    (tmp_path / "a.dat").write_bytes(data)
    for source in (data, tmp_path / "a.dat", str(tmp_path / "a.dat")):
        picture = open_picture(source)
        assert picture.mode == "RGB" and picture.size == (64, 40) and picture.info == {}
        error = np.abs(np.asarray(picture).astype(int) - TRUTH).mean()
        assert error <= {"JPEG": 2, "GIF": 6}.get(format, 0)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.03, 0.3, 0.6, 0.95])
def test_truncated_is_refused(format, share):
    data = saved(Image.fromarray(RNG.integers(0, 256, (100, 150, 3), dtype=np.uint8)), format)
    refused(data[: int(len(data) * share)])


def test_decompression_bomb_is_refused_before_decoding():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tracemalloc.start()
        for side in (4097, 9500, 12_000, 65_000, 2**31 - 1):  # from above our limit to above each of Pillow's
            refused(png(side, side), "million pixels")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 5e6
    refused(saved(Image.new("1", (4200, 4200)), "TIFF", compression="group4"), "million pixels")
    gif = bytearray(saved(Image.new("L", (8, 8)), "GIF"))
    gif[6:10] = struct.pack("<HH", 60_000, 60_000)
    refused(bytes(gif), "million pixels")


def test_largest_size_is_accepted():
    picture = open_picture(saved(Image.new("1", (4096, 4096), 1), "PNG"))
    assert picture.size == (4096, 4096) and picture.getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000), (510, 10)])
def test_narrow_is_refused_with_its_size(size):
    refused(saved(Image.new("L", size), "PNG"), "too narrow", f"{size[0]} x {size[1]}")


def test_long_side_is_refused():
    refused(png(20_001, 500), "20000")


@pytest.mark.parametrize("size", [(1, 1), (50, 1), (2, 3)])
def test_tiny_is_accepted(size):
    picture = open_picture(saved(Image.new("RGB", size, (7, 8, 9)), "PNG"))
    assert picture.size == size
    assert np.asarray(centre_crop(picture, 32)).tolist() == [[[7, 8, 9]] * 32] * 32
    crop_preview(picture)


def test_files_that_are_no_pictures_are_refused(tmp_path):
    refused(b"", "empty")
    (tmp_path / "empty.png").write_bytes(b"")
    refused(tmp_path / "empty.png", "empty")
    (tmp_path / "text.png").write_text("hello, I am a letter\n" * 50)
    refused(tmp_path / "text.png", "not a picture", "PNG")
    refused(b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "SVG", "PNG")
    refused(b"%PDF-1.7 ...", "PDF")
    refused(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100), "HEIC")
    refused(RNG.bytes(5000), "not a picture")
    refused(saved(Image.new("RGB", (8, 8)), "ICO"), "not a picture")
    refused(saved(Image.new("RGB", (8, 8)), "PPM"), "not a picture")
    refused(tmp_path / "missing.png", "no such")
    refused(tmp_path, "no such")
    refused("a\0b.png", "no such")
    refused(png(0, 5))
    refused(png(64, 64, idat=b"not zlib at all"))


def test_pipe_does_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    refused(tmp_path / "pipe.png", "no such")


def test_file_size_limit(tmp_path):
    with (tmp_path / "big.png").open("wb") as f:
        f.write(png(8, 8))
        f.truncate(MAX_BYTES + 1)  # sparse
    refused(tmp_path / "big.png", "32 MB")


def test_many_scans_are_refused():
    data = saved(Image.fromarray(TRUTH), "JPEG", progressive=True)
    assert open_picture(data).size == (64, 40)
    refused(data[:-2] + b"\xff\xda\0\x08\x01\x01\0\x01\x3f\x10" * 101 + b"\xff\xd9", "passes")


def test_cmyk_jpeg():
    cmyk = Image.fromarray(TRUTH).convert("CMYK")
    assert Image.open(io.BytesIO(data := saved(cmyk, "JPEG", quality=95, subsampling=0))).mode == "CMYK"
    assert np.abs(np.asarray(open_picture(data)).astype(int) - TRUTH).mean() < 3


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_is_divided_by_257(format):
    values = np.array([[0, 128, 129, 257 * 7, 32_768, 65_535]], np.uint16)
    data = saved(Image.fromarray(values), format)
    assert np.asarray(open_picture(data))[0, :, 1].tolist() == [0, 0, 1, 7, 128, 255]


def test_sixteen_bit_rgb_png():
    rows = b"".join(b"\0" + struct.pack(">6H", 0, 0x8040, 0xFFFF, 0x1234, 0x5678, 0x9ABC) for _ in range(2))
    assert np.asarray(open_picture(png(2, 2, depth=16, idat=zlib.compress(rows))))[0].tolist() == [[0, 0x80, 255], [0x12, 0x56, 0x9A]]


@pytest.mark.parametrize(
    "values, expected",
    [
        (np.array([[0.0, 0.5, 1.0]], np.float32), [0, 128, 255]),
        (np.array([[0.0, 100.0, 255.0]], np.float32), [0, 100, 255]),
        (np.array([[0.0, 257.0, 65535.0]], np.float32), [0, 1, 255]),
        (np.array([[-1.0, 0.0, 3.0]], np.float32), [0, 64, 255]),
        (np.array([[np.nan, 0.0, np.inf]], np.float32), [0, 0, 255]),
        (np.array([[np.nan, np.nan]], np.float32), [0, 0]),
        (np.array([[0, 100, 255]], np.int32), [0, 100, 255]),
        (np.array([[0, 257, 65535]], np.int32), [0, 1, 255]),
        (np.array([[-(2**30), 0, 2**30]], np.int32), [0, 128, 255]),
    ],
)
def test_32_bit_and_float_grey(values, expected):
    got = np.asarray(open_picture(saved(Image.fromarray(values), "TIFF")))[0, :, 0].tolist()
    if np.isinf(values).any():  # with nothing but 0 finite, only the order is certain
        assert got[0] == got[1] == 0
    else:
        assert got == expected


def test_transparent_pixels_are_blended_with_white():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [[200, 0, 0, 0], [200, 0, 0, 128], [200, 0, 0, 255]]  # the first hides its red
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("TIFF", {})):
        pixels = np.asarray(open_picture(saved(Image.fromarray(rgba), format, **options)))[0]
        assert pixels.tolist()[0] == [255, 255, 255] and pixels.tolist()[2] == [200, 0, 0]
        assert np.abs(pixels[1].astype(int) - [227, 127, 127]).max() <= 1
    grey = Image.new("LA", (2, 1), (10, 0))
    grey.putpixel((1, 0), (10, 255))
    assert np.asarray(open_picture(saved(grey, "PNG")))[0].tolist() == [[255] * 3, [10] * 3]


def test_palette_with_transparency():
    picture = Image.new("P", (3, 1))
    picture.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    picture.putdata([0, 1, 2])
    want = [[255, 255, 255], [0, 255, 0], [0, 0, 255]]
    for format in ("PNG", "GIF"):
        assert np.asarray(open_picture(saved(picture, format, transparency=0)))[0].tolist() == want
    half = np.asarray(open_picture(saved(picture, "PNG", transparency=bytes([0, 255, 128]))))[0]
    assert half.tolist()[:2] == want[:2] and abs(int(half[2, 0]) - 127) <= 1 and half[2, 2] == 255


def test_grey_and_rgb_with_a_transparent_colour():
    grey = Image.fromarray(np.array([[3, 200]], np.uint8))
    assert np.asarray(open_picture(saved(grey, "PNG", transparency=3)))[0].tolist() == [[255] * 3, [200] * 3]
    colour = Image.fromarray(np.array([[[1, 2, 3], [9, 9, 9]]], np.uint8))
    assert np.asarray(open_picture(saved(colour, "PNG", transparency=(1, 2, 3))))[0].tolist() == [[255] * 3, [9] * 3]
    deep = Image.fromarray(np.array([[257, 65535]], np.uint16))
    assert np.asarray(open_picture(saved(deep, "PNG", transparency=257)))[0].tolist() == [[255] * 3, [255] * 3]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animation_gives_its_first_frame(format):
    frames = [Image.new("RGB", (12, 10), c) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **({"lossless": True} if format == "WEBP" else {}))
    assert Image.open(io.BytesIO(data)).n_frames == 3
    picture = open_picture(data)
    assert picture.size == (12, 10) and picture.getpixel((3, 3)) == (255, 0, 0)


# what a camera stored, made from the upright truth without Pillow's own table
STORED = {
    1: TRUTH,
    2: TRUTH[:, ::-1],
    3: TRUTH[::-1, ::-1],
    4: TRUTH[::-1],
    5: TRUTH.transpose(1, 0, 2),
    6: np.rot90(TRUTH, 1),
    7: TRUTH[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90(TRUTH, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation(orientation, format):
    exif = Image.Exif()
    exif[274] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format, {})
    picture = open_picture(saved(Image.fromarray(np.ascontiguousarray(STORED[orientation])), format, exif=exif, **options))
    assert picture.size == (64, 40)
    assert np.abs(np.asarray(picture).astype(int) - TRUTH).mean() < (2 if format == "JPEG" else 1e-9)


def test_unreadable_exif_is_no_reason_to_refuse():
    data = saved(Image.fromarray(TRUTH), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff garbage")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_picture(data).size == (64, 40)


def test_noise_in_the_middle_never_gives_another_error():
    for format in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        data = saved(Image.fromarray(TRUTH), format)
        for _ in range(40):
            broken = bytearray(data)
            for position in RNG.integers(0, min(len(data), 400), 3):
                broken[position] = RNG.integers(256)
            try:
                assert open_picture(bytes(broken)).mode == "RGB"
            except PictureError:
                pass


def test_threads_leave_the_warning_filters_alone():
    before = list(warnings.filters)
    data = saved(Image.fromarray(TRUTH), "PNG")
    threads = [threading.Thread(target=lambda: [open_picture(data) for _ in range(20)]) for _ in range(4)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert warnings.filters == before


# -- the model's shape ----------------------------------------------------------------------------------------------------


def test_crop_box_is_the_centred_square():
    assert crop_box(10, 10) == (0, 0, 10, 10)
    assert crop_box(30, 10) == (10, 0, 20, 10)
    assert crop_box(11, 30) == (0, 9, 11, 20)


def test_centre_crop_keeps_pixels_at_the_same_size_and_averages_when_shrinking():
    picture = Image.fromarray(TRUTH)
    assert np.array_equal(np.asarray(centre_crop(picture, 40)), TRUTH[:, 12:52])
    checks = Image.fromarray((np.indices((512, 512)).sum(0) % 2 * 255).astype(np.uint8)).convert("RGB")
    assert np.abs(np.asarray(centre_crop(checks, 32)).astype(int) - 127.5).max() <= 2  # no moire: every pixel counts
    halves = Image.fromarray(np.repeat(np.repeat(np.array([[0, 255]], np.uint8), 64, 0), 32, 1)).convert("RGB")
    small = np.asarray(centre_crop(halves, 8))[:, :, 0]
    assert (small[:, :3] < 20).all() and (small[:, 5:] > 235).all()
    up = centre_crop(picture, 200)
    assert up.size == (200, 200) and up.mode == "RGB"
    grey = centre_crop(picture, 28, channels=1)
    assert grey.mode == "L" and grey.size == (28, 28)
    with pytest.raises(ValueError, match="channels"):
        centre_crop(picture, 32, channels=4)
    with pytest.raises(ValueError, match="side"):
        centre_crop(picture, 0)


def test_crop_preview_dims_what_is_lost():
    white = Image.new("RGB", (1000, 400), "white")
    shown = crop_preview(white)
    assert shown.size == (320, 128)
    assert shown.getpixel((160, 64)) == (255, 255, 255)  # kept
    assert max(shown.getpixel((20, 64))) < 130  # lost
    left = (320 - 128) // 2
    assert shown.getpixel((left, 64)) not in ((255, 255, 255), shown.getpixel((20, 64)))  # the outline
    assert crop_preview(Image.new("RGB", (28, 28))).size == (308, 308)


def test_to_array():
    assert np.array_equal(to_array(Image.fromarray(TRUTH)), TRUTH.transpose(2, 0, 1))
    assert to_array(Image.new("L", (5, 4), 9)).tolist() == [[[9] * 5] * 4]
    with pytest.raises(ValueError, match="mode"):
        to_array(Image.new("CMYK", (4, 4)))
