"""Turns image tensors into picture files: grids, strips and animations (WebP, GIF, MP4)."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ddpm_app.files import write_atomically

FIRST_HOLD = 0.4  # seconds: long enough to see where an animation begins
LAST_HOLD = 1.5  # seconds: time to look at the result
GIF_SIDE = 256  # pixels; noise at 512 was 11 MB as GIF
TONES = 8  # grey levels of a GIF's captions
PAPER, INK = (255, 255, 255), (15, 23, 42)


def grid(images: Tensor, columns: int, pad: int | None = None, background: int = 128) -> Image.Image:
    """uint8 (N, C, H, W) with 1 or 3 channels -> an RGB picture at native size, row by row.

    pad: pixels between two images (default: a sixteenth of their width). background: grey level between them; 128 is visible on light
    and on dark pages."""
    n, c, h, w = images.shape
    pad = max(w // 16, 1) if pad is None else pad
    rows = -(-n // columns)
    canvas = np.full((rows * (h + pad) - pad, columns * (w + pad) - pad, 3), background, np.uint8)
    pixels = images.permute(0, 2, 3, 1).expand(n, h, w, 3).numpy() if c == 1 else images.permute(0, 2, 3, 1).numpy()
    for k in range(n):
        y, x = divmod(k, columns)
        canvas[y * (h + pad) : y * (h + pad) + h, x * (w + pad) : x * (w + pad) + w] = pixels[k]
    return Image.fromarray(canvas)


def strip(images: Tensor, pad: int | None = None, background: int = 128) -> Image.Image:
    """uint8 (N, C, H, W) side by side in one row, RGB at native size."""
    return grid(images, len(images), pad, background)


def enlarge(picture: Image.Image, factor: int) -> Image.Image:
    """Every pixel becomes a square of factor x factor pixels."""
    if factor < 1:
        raise ValueError(f"factor is {factor}; whole numbers from 1 are accepted")
    return picture if factor == 1 else picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)


def encode(picture: Image.Image, format: str = "jpeg", quality: int = 92) -> bytes:
    """A live frame as bytes: "jpeg" (colour at full resolution, 4:4:4) or "png" (lossless, `quality` unused)."""
    out = io.BytesIO()
    if format == "jpeg":
        picture.convert("RGB").save(out, "JPEG", quality=quality, subsampling=0)
    elif format == "png":
        picture.save(out, "PNG")
    else:
        raise ValueError(f"format {format!r}; jpeg and png are accepted")
    return out.getvalue()


def save_png(picture: Image.Image, file: Path) -> None:
    """Write a PNG atomically. Missing folders are made."""
    write_atomically(file, encode(picture, "png"))


def data_url(data: bytes, mime: str = "image/png") -> str:
    """The bytes of a file as a data: URL."""
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


# -- animations -----------------------------------------------------------------------------------------------------------
# Frames have native size and are enlarged one at a time while they are written, so that only one large frame is in memory.


def webp(frames: Sequence[Image.Image], fps: float = 15, side: int = 512, captions: Sequence[str] | None = None) -> bytes:
    """A lossless animated WebP that loops.

    frames:   pictures of one size
    fps:      frames per second, 1 to 60
    side:     the longer side in pixels; frames are enlarged by the whole factor that comes nearest
    captions: one line per frame, written under it
    The first frame is shown for FIRST_HOLD, the last for LAST_HOLD seconds.
    Raises ValueError for no frames, frames of several sizes, a wrong number of captions or fps out of range.
    """
    factor = _check(frames, fps, side, captions)
    durations = _durations(len(frames), fps)
    pictures = _enlarged(frames, factor, captions)
    out = io.BytesIO()
    # Lossless: the lossy encoder treats pixels as unchanged that differ by a few levels from the previous frame, and dropped the
    # last steps of a slow sequence (quality 75: 46 of 50 frames left). With method 0 lossless is also faster.
    next(pictures).save(out, "WEBP", save_all=True, append_images=pictures, duration=durations, loop=0, lossless=True, quality=0, method=0)
    return out.getvalue()


def gif(frames: Sequence[Image.Image], fps: float = 15, side: int = GIF_SIDE, captions: Sequence[str] | None = None) -> bytes:
    """An animated GIF that loops, with 248 colours per frame and the arguments of webp().

    side is limited to GIF_SIDE pixels (or to the size of the frames, if they are larger), and fps to 50: browsers show faster GIFs
    slowly."""
    factor = _check(frames, fps, min(side, GIF_SIDE), captions, fits=True)
    # a GIF stores hundredths of a second
    durations = [max(round(ms / 10), 2) * 10 for ms in _durations(len(frames), fps)]
    pictures = (_paletted(frame, factor, None if captions is None else captions[k]) for k, frame in enumerate(frames))
    out = io.BytesIO()
    next(pictures).save(out, "GIF", save_all=True, append_images=pictures, duration=durations, loop=0, optimize=False)
    return out.getvalue()


def mp4(frames: Sequence[Image.Image], fps: float = 15, side: int = 512, captions: Sequence[str] | None = None) -> bytes:
    """An H.264 video (yuv420p, even sides, index in front) with the arguments of webp().

    Raises RuntimeError, one sentence, where PyAV or its H.264 encoder is not installed.
    """
    factor = _check(frames, fps, side, captions)
    try:
        import av

        av.codec.Codec("libx264", "w")
    except Exception as error:  # ImportError, or av's own error types where the codec is missing
        raise RuntimeError(
            "MP4 needs the package av with its libx264 encoder, which is not installed; WebP and GIF work without it"
        ) from error
    from fractions import Fraction

    rate = Fraction(fps).limit_denominator(1000)
    with tempfile.TemporaryDirectory() as folder:  # moving the index to the front needs a file on disk
        file = Path(folder) / "a.mp4"
        with av.open(str(file), "w", options={"movflags": "+faststart"}) as container:
            stream = container.add_stream("libx264", rate=rate, options={"crf": "20", "preset": "veryfast"})
            stream.pix_fmt = "yuv420p"
            stream.thread_count = 2
            last = len(frames) - 1
            for k, picture in enumerate(_enlarged(frames, factor, captions)):
                picture = _even(picture)
                if k == 0:
                    stream.width, stream.height = picture.size
                # Repeated frames cost almost nothing and work in every player; a long last time stamp does not.
                hold = FIRST_HOLD if k == 0 < last else LAST_HOLD if k == last else 0
                for _ in range(max(round(hold * fps), 1)):
                    container.mux(stream.encode(av.VideoFrame.from_image(picture)))
            container.mux(stream.encode(None))
        return file.read_bytes()


def _check(frames: Sequence[Image.Image], fps: float, side: int, captions: Sequence[str] | None, fits: bool = False) -> int:
    """The whole factor that enlarges the frames to about `side` pixels, or to at most `side` with `fits`."""
    if not frames:
        raise ValueError("an animation needs at least one frame")
    if len({f.size for f in frames}) > 1:
        raise ValueError("the frames of an animation have to be of one size")
    if not 1 <= fps <= 60:
        raise ValueError(f"{fps} frames per second; 1 to 60 are accepted")
    if not 1 <= side <= 2048:
        raise ValueError(f"a side of {side} pixels; 1 to 2048 are accepted")
    if captions is not None and len(captions) != len(frames):
        raise ValueError(f"{len(captions)} captions for {len(frames)} frames")
    ratio = side / max(frames[0].size)
    return max(int(ratio) if fits else round(ratio), 1)


def _durations(n: int, fps: float) -> list[int]:
    """Milliseconds of each frame."""
    middle = round(1000 / fps)
    durations = [max(middle, round(1000 * FIRST_HOLD))] + [middle] * (n - 1)
    durations[-1] = max(middle, round(1000 * LAST_HOLD))
    return durations


def _enlarged(frames: Sequence[Image.Image], factor: int, captions: Sequence[str] | None) -> Iterator[Image.Image]:
    for k, frame in enumerate(frames):
        picture = enlarge(frame.convert("RGB"), factor)
        if captions is not None:
            letters = _letters(captions[k], picture.width)
            band = Image.composite(Image.new("RGB", letters.size, INK), Image.new("RGB", letters.size, PAPER), letters)
            picture = _under(picture, band)
        yield picture


def _paletted(frame: Image.Image, factor: int, caption: str | None) -> Image.Image:
    """Colours are chosen at native size, before enlarging (16 times less work at a factor of 4); TONES are kept for the caption."""
    # the octree is 40 times as fast as median cut and as close (rms 6.7 against 6.3 of 255 on a grid of 16 photos)
    colours = 256 - TONES
    small = frame.convert("RGB").quantize(colours, method=Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
    palette = (small.getpalette() or [])[: colours * 3]
    ramp = [round(p + (i - p) * t / (TONES - 1)) for t in range(TONES) for p, i in zip(PAPER, INK)]
    small.putpalette(palette + [0] * (colours * 3 - len(palette)) + ramp)
    picture = enlarge(small, factor)
    if caption is None:
        return picture
    return _under(picture, _letters(caption, picture.width).point([colours + round(v * (TONES - 1) / 255) for v in range(256)]))


def _under(picture: Image.Image, band: Image.Image) -> Image.Image:
    out = Image.new(picture.mode, (picture.width, picture.height + band.height))
    if picture.mode == "P":
        out.putpalette(picture.getpalette())
    out.paste(picture)
    out.paste(band, (0, picture.height))
    return out


def _letters(text: str, width: int) -> Image.Image:
    """A line of centred text as coverage 0..255 ("L"). Text too long for the width is made smaller, then cut."""
    size = min(max(width // 28, 11), 22)
    band = Image.new("L", (width, round(size * 1.9)))
    draw, text = ImageDraw.Draw(band), " ".join(text.split())
    font = ImageFont.load_default(size)
    while size > 9 and draw.textlength(text, font=font) > width - 8:
        size -= 1
        font = ImageFont.load_default(size)
    while text and draw.textlength(text, font=font) > width - 8:
        text = text[:-2] + "…" if len(text) > 2 else ""
    draw.text((width / 2, band.height / 2), text, fill=255, font=font, anchor="mm")
    return band


def _even(picture: Image.Image) -> Image.Image:
    """Chroma at half resolution needs even sides; a missing row or column repeats the last one."""
    width, height = picture.size
    if width % 2 == 0 and height % 2 == 0:
        return picture
    pixels = np.asarray(picture)
    return Image.fromarray(np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))
