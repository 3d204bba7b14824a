"""Grids, live frames and exported animations, each decoded again."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ddpm_app.images import render

G = torch.Generator().manual_seed(0)
IMAGES = torch.randint(0, 256, (5, 3, 8, 6), generator=G, dtype=torch.uint8)


def frames(n: int = 12, size: tuple[int, int] = (32, 24)) -> list[Image.Image]:
    """Smooth pictures that change by one level a frame: what a lossy encoder takes for standing still."""
    y, x = np.mgrid[0 : size[1], 0 : size[0]]
    return [Image.fromarray(np.stack([x * 3 + 100 + k, y * 4 + 60, x + y + k], 2).astype(np.uint8)) for k in range(n)]


def decoded(data: bytes) -> tuple[list[np.ndarray], list[int]]:
    image = Image.open(io.BytesIO(data))
    pixels, durations = [], []
    for k in range(image.n_frames):
        image.seek(k)
        pixels.append(np.asarray(image.convert("RGB")))
        durations.append(image.info.get("duration", 0))
    return pixels, durations


def decoded_mp4(data: bytes) -> tuple[list[np.ndarray], object]:
    av = pytest.importorskip("av")
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        return [f.to_ndarray(format="rgb24") for f in container.decode(stream)], stream.codec_context


def native(picture: np.ndarray, factor: int) -> np.ndarray:
    """One pixel out of the middle of each enlarged square."""
    return picture[factor // 2 :: factor, factor // 2 :: factor]


def test_grid_and_strip_place_every_pixel():
    for channels in (1, 3):
        images = IMAGES[:, :channels]
        rgb = images.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy()
        picture = np.asarray(render.grid(images, 2, pad=1, background=7))
        assert picture.shape == (3 * 9 - 1, 2 * 7 - 1, 3)
        for k in range(5):
            top, left = k // 2 * 9, k % 2 * 7
            assert np.array_equal(picture[top : top + 8, left : left + 6], rgb[k])
        assert (picture[8] == 7).all() and (picture[18:, 7:] == 7).all()
        row = np.asarray(render.strip(images, pad=0))
        assert np.array_equal(row, np.concatenate(list(rgb), 1))


def test_enlarge_repeats_pixels():
    picture = render.grid(IMAGES, 5)
    big = np.asarray(render.enlarge(picture, 3))
    assert np.array_equal(big, np.asarray(picture).repeat(3, 0).repeat(3, 1))
    with pytest.raises(ValueError, match="factor"):
        render.enlarge(picture, 0)


def test_encode_png_and_jpeg():
    picture = frames(1, (128, 128))[0]
    png = Image.open(io.BytesIO(render.encode(picture, "png")))
    assert png.format == "PNG" and np.array_equal(np.asarray(png), np.asarray(picture))
    data = render.encode(picture)
    jpeg = Image.open(io.BytesIO(data))
    assert jpeg.format == "JPEG" and jpeg.size == (128, 128)
    assert np.abs(np.asarray(jpeg).astype(int) - np.asarray(picture)).max() <= 12
    assert all(layer[1:3] == (1, 1) for layer in jpeg.layer)  # 4:4:4: colour as sharp as light
    assert len(render.encode(picture, "jpeg", 30)) < len(data)
    assert Image.open(io.BytesIO(render.encode(Image.new("RGBA", (4, 4)), "jpeg"))).mode == "RGB"
    with pytest.raises(ValueError, match="format"):
        render.encode(picture, "bmp")


def test_save_png_leaves_no_temporary_file(tmp_path):
    render.save_png(render.grid(IMAGES, 2), tmp_path / "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_webp_is_exact_and_loses_no_frame():
    sent = frames()
    got, _ = decoded(data := render.webp(sent, fps=10, side=128))
    assert len(got) == 12 and got[0].shape == (96, 128, 3)
    for a, b in zip(got, sent):
        assert np.array_equal(a, np.asarray(render.enlarge(b, 4)))
    assert Image.open(io.BytesIO(data)).info["loop"] == 0
    assert webp_durations(data) == [400] + [100] * 10 + [1500]


def webp_durations(data: bytes) -> list[int]:
    """From the ANMF chunks themselves (WebP container specification): Pillow tells time stamps only."""
    durations, position = [], 12
    while position < len(data):
        kind, size = data[position : position + 4], int.from_bytes(data[position + 4 : position + 8], "little")
        if kind == b"ANMF":
            durations.append(int.from_bytes(data[position + 8 + 12 : position + 8 + 15], "little"))
        position += 8 + size + size % 2
    return durations


def test_gif_frames_and_durations():
    sent = frames()
    got, durations = decoded(render.gif(sent, fps=10, side=128))
    assert len(got) == 12 and got[0].shape == (96, 128, 3)
    assert durations == [400] + [100] * 10 + [1500]
    for a, b in zip(got, sent):
        assert np.abs(native(a, 4).astype(int) - np.asarray(b)).mean() < 8  # 248 colours
        assert np.array_equal(a, native(a, 4).repeat(4, 0).repeat(4, 1))
    assert decoded(render.gif(sent[:2], side=2000))[0][0].shape == (192, 256, 3)  # small, whatever is asked for
    assert decoded(render.gif(frames(2, (300, 20))))[0][0].shape == (20, 300, 3)  # and never shrunk
    assert decoded(render.gif(sent[:3], fps=60))[1] == [400, 20, 1500]


def test_gif_keeps_few_colours_exactly():
    sent = [Image.fromarray(np.full((8, 8), k * 5, np.uint8)) for k in range(10)]
    assert [int(f[0, 0, 0]) for f in decoded(render.gif(sent))[0]] == pytest.approx([k * 5 for k in range(10)], abs=4)


def test_mp4_frames_and_format():
    sent = frames()
    got, context = decoded_mp4(data := render.mp4(sent, fps=10, side=128))
    assert len(got) == 4 + 10 + 15  # the first held 0.4 s, the last 1.5 s
    assert got[0].shape == (96, 128, 3) and context.pix_fmt == "yuv420p" and context.name == "h264"
    for a, b in ((got[0], sent[0]), (got[4], sent[1]), (got[-1], sent[-1])):
        assert np.abs(native(a, 4).astype(int) - np.asarray(b)).mean() < 4
    assert 0 < data.find(b"moov") < data.find(b"mdat")  # plays before it has all arrived


def test_mp4_holds_the_first_and_the_last_frame():
    black, grey, white = (Image.new("RGB", (16, 16), (v, v, v)) for v in (0, 128, 255))
    shown = [int(f.mean()) for f in decoded_mp4(render.mp4([black, grey, white], fps=10))[0]]
    assert [min((0, 128, 255), key=lambda v: abs(v - s)) for s in shown] == [0] * 4 + [128] + [255] * 15


def test_mp4_has_even_sides():
    assert decoded_mp4(render.mp4(frames(2, (33, 21)), side=33))[0][0].shape == (22, 34, 3)
    assert decoded_mp4(render.mp4(frames(1, (33, 33)), fps=29.97, captions=["one"]))[0][0].shape[1] % 2 == 0


def test_mp4_without_an_encoder_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)  # import av fails
    with pytest.raises(RuntimeError, match="av.*WebP and GIF work"):
        render.mp4(frames(2))


@pytest.mark.parametrize("kind", ["webp", "gif", "mp4"])
def test_captions_stand_under_the_picture(kind):
    sent = frames(3, (64, 64))
    captions = ["t = 999", "t = 500  sigma = 1.234", "a line\nmuch too long " * 9]
    data = getattr(render, kind)(sent, fps=10, side=256, captions=captions)
    got = decoded(data)[0] if kind != "mp4" else [decoded_mp4(data)[0][k] for k in (0, 4, 5)]
    bands = [frame[256:].astype(int).mean(2) for frame in got]
    for frame, band, picture in zip(got, bands, sent):
        assert frame.shape[1] == 256 and 16 <= frame.shape[0] - 256 <= 44
        assert band.max() > 240 and band.min() < 90  # ink on paper
        assert (band[:, :2] > 200).all() and (band[:, -2:] > 200).all()  # nothing runs over the edge
        assert np.abs(native(frame[:256], 4).astype(int) - np.asarray(picture)).mean() < 8
    ink = [(band < 128).any(0).sum() for band in bands]
    assert ink[0] < ink[1] < ink[2]  # a longer line is wider


def test_animations_of_one_frame():
    sent = frames(1)
    assert len(decoded(render.gif(sent))[0]) == len(decoded(render.webp(sent))[0]) == 1
    assert len(decoded_mp4(render.mp4(sent, fps=10))[0]) == 15


def test_side_is_met_by_a_whole_factor():
    assert decoded(render.webp(frames(1, (134, 134))))[0][0].shape == (536, 536, 3)  # nearer than 402
    assert decoded(render.gif(frames(1, (134, 134))))[0][0].shape == (134, 134, 3)  # 268 would not fit


@pytest.mark.parametrize("kind", ["webp", "gif", "mp4"])
def test_animations_refuse_bad_arguments(kind):
    animate = getattr(render, kind)
    with pytest.raises(ValueError, match="at least one frame"):
        animate([])
    with pytest.raises(ValueError, match="one size"):
        animate([*frames(1), *frames(1, (8, 8))])
    with pytest.raises(ValueError, match="frames per second"):
        animate(frames(2), fps=0)
    with pytest.raises(ValueError, match="side"):
        animate(frames(2), side=0)
    with pytest.raises(ValueError, match="1 captions for 2 frames"):
        animate(frames(2), captions=["a"])
