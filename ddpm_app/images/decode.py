"""Opens uploaded image files safely as upright 8-bit RGB, and crops them to the model's square shape. The files are not trusted.

Every problem of a file raises PictureError, whose text is one sentence for the person who sent the file.
"""

from __future__ import annotations

import io
import threading
import warnings
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageDraw

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
NAMES = "PNG, JPEG, WebP, GIF, BMP or TIFF"
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"}
MAX_BYTES = 32 * 2**20
MAX_PIXELS = 4096 * 4096  # a picture of that size takes Pillow 67 MB as RGB, and opening it at most 0.2 GB
MAX_SIDE = 20_000
MAX_ASPECT = 50  # longer side / shorter side
MAX_SCANS = 100  # of a progressive JPEG: each scan takes a dozen bytes and costs a pass over the whole picture

# Formats that people send and that are not accepted, recognised by their first bytes. The error says what to do.
_FOREIGN = (
    (lambda b: b"<svg" in b[:1024].lower(), "This is an SVG drawing, which has no pixels yet; please export it as PNG."),
    (lambda b: b[:5] == b"%PDF-", "This is a PDF document; please export the page as PNG or JPEG."),
    (lambda b: b[4:8] == b"ftyp" and b[8:11] in (b"hei", b"hev", b"mif", b"msf"), "HEIC photos cannot be read; please save it as JPEG."),
    (lambda b: b[4:8] == b"ftyp" and b[8:11] == b"avi", "AVIF pictures cannot be read; please save it as PNG or JPEG."),
)

_MAGIC = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
_DAMAGED = "The picture is damaged or cut short and cannot be opened."
_TOO_LARGE = f"The picture has more than {MAX_PIXELS // 10**6} million pixels; please send a smaller one."

_UPRIGHT = {  # EXIF orientation -> what undoes it (TIFF 6.0, tag 274)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# One picture is decoded at a time. This bounds the memory when many people upload at once, and keeps two threads from changing
# the process-wide list of warning filters together.
_LOCK = threading.Lock()


class PictureError(ValueError):
    """Why a file cannot be used, in one sentence."""


def read_bytes(source: str | Path | bytes) -> bytes:
    """The whole file, at most MAX_BYTES. Raises PictureError for one that is missing, empty, too large or no regular file."""
    if isinstance(source, bytes):
        data = source
    else:
        path = Path(source)
        try:
            if not path.is_file():  # a pipe or a device would block or never end
                raise PictureError("There is no such picture file.")
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
        except (OSError, ValueError) as error:
            if isinstance(error, PictureError):
                raise
            raise PictureError("The picture file could not be read.") from error
    if not data:
        raise PictureError("The file is empty (0 bytes).")
    if len(data) > MAX_BYTES:
        raise PictureError(f"The file is larger than {MAX_BYTES >> 20} MB; please send a smaller one.")
    return data


def open_picture(source: str | Path | bytes) -> Image.Image:
    """Decode a picture from a path or from its bytes: upright RGB, 8 bits per channel, without metadata.

    Transparent pixels are blended with white. The first frame of an animation is used. 16-bit grey is divided by 257.
    Raises PictureError for damaged files, formats other than FORMATS, and files over MAX_BYTES, MAX_PIXELS, MAX_SIDE or
    MAX_ASPECT; the sizes are checked before decoding.
    """
    data = read_bytes(source)
    if data[:2] == b"\xff\xd8" and data.count(b"\xff\xda") > MAX_SCANS:
        raise PictureError("This JPEG has more passes than a picture needs; please save it anew as JPEG or PNG.")
    with _LOCK, warnings.catch_warnings():
        # Pillow warns about unusual metadata, which is not used here, and about sizes, which are checked below.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(*image.size)
                _check_size(*getattr(image, "_tile_size", image.size), shape=False)  # a TIFF tile may be larger than its picture
                image.load()
                picture = _to_rgb(image)
                turn = _UPRIGHT.get(_orientation(image))
        except PictureError:
            raise
        except Image.DecompressionBombError as error:
            raise PictureError(_TOO_LARGE) from error
        except Image.UnidentifiedImageError as error:
            raise PictureError(_why_not(data)) from error
        except MemoryError as error:
            raise PictureError("There is not enough memory to open this picture.") from error
        except Exception as error:  # for damaged files, decoders raise anything from SyntaxError to struct.error
            raise PictureError(_DAMAGED) from error
    picture = picture if turn is None else picture.transpose(turn)
    picture.info = {}  # comments, profiles and GPS positions of the original must not get into files saved later
    return picture


def _why_not(data: bytes) -> str:
    """The error text for a file in which Pillow recognised none of FORMATS."""
    if data.startswith(_MAGIC):
        return _DAMAGED
    for matches, sentence in _FOREIGN:
        if matches(data):
            return sentence
    return f"The file is not a picture that can be read here; {NAMES} is accepted."


def _check_size(width: int, height: int, shape: bool = True) -> None:
    if width < 1 or height < 1:
        raise PictureError("The picture has no pixels.")
    if width * height > MAX_PIXELS:
        raise PictureError(_TOO_LARGE)
    if max(width, height) > MAX_SIDE:
        raise PictureError(f"The picture is {width} x {height} pixels; no side may be longer than {MAX_SIDE}.")
    if shape and max(width, height) > MAX_ASPECT * min(width, height):
        raise PictureError(f"The picture is too narrow: {width} x {height} pixels, where {MAX_ASPECT}:1 is the most that is accepted.")


def _orientation(image: Image.Image) -> int:
    """EXIF orientation 1..8 of a loaded image (PNG keeps it after the pixels); unreadable EXIF counts as upright."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # unreadable metadata does not make the pixels unusable
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any mode of an accepted format -> RGB, transparent pixels blended with white."""
    mask = None
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        key = image.info.get("transparency")
        if isinstance(key, int):  # one grey value of a 16-bit PNG means transparent
            mask = _by_strips(image, lambda values: np.where(values == key, 0, 255))
        image = _by_strips(image, _deep_grey_scale(image))
    elif image.has_transparency_data:
        image = mask = image if image.mode == "RGBA" else image.convert("RGBA")
    if mask is None:
        return image.convert("RGB")
    white = Image.new("RGB", image.size, "white")
    white.paste(image if image is mask else image.convert("RGB"), mask=mask)  # pasting RGBA directly saves a copy
    return white


def _strips(image: Image.Image):
    """(first row, values) of strips of about a million pixels; float arithmetic on a whole picture would take gigabytes."""
    width, height = image.size
    rows = max(2**20 // width, 1)
    for top in range(0, height, rows):
        yield top, np.asarray(image.crop((0, top, width, min(top + rows, height))))


def _by_strips(image: Image.Image, function) -> Image.Image:
    out = np.empty((image.height, image.width), np.uint8)
    for top, values in _strips(image):
        out[top : top + len(values)] = function(values)
    return Image.fromarray(out)


def _deep_grey_scale(image: Image.Image):
    """A function from 16-bit, 32-bit or float grey values to 0..255.

    16-bit files are divided by 257 (65535 / 255). 32-bit and float files do not state their range: values within 0..1 (float),
    0..255 or 0..65535 are taken to use that range; other values are scaled from their minimum to their maximum.
    """
    if image.mode.startswith("I;16"):
        return lambda v: (v.astype(np.uint32) + 128) // 257
    low, high = np.inf, -np.inf
    for _, values in _strips(image):
        finite = values[np.isfinite(values)]
        if finite.size:
            low, high = min(low, float(finite.min())), max(high, float(finite.max()))
    if low > high:  # nothing but NaN
        return lambda v: np.zeros(v.shape, np.uint8)
    if low >= 0 and high <= 65535:
        low, high = 0.0, (1.0 if image.mode == "F" and high <= 1 else 255.0 if high <= 255 else 65535.0)
    span = max(high - low, 1e-30)

    def scale(v: np.ndarray) -> np.ndarray:
        v = np.nan_to_num(v.astype(np.float64), nan=low, posinf=high, neginf=low)
        return np.clip(np.rint((v - low) * (255 / span)), 0, 255)

    return scale


def crop_box(width: int, height: int) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) in pixels of the largest centred square."""
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    return left, top, left + side, top + side


def centre_crop(picture: Image.Image, size: int, channels: int = 3) -> Image.Image:
    """The centred square of an RGB picture, `size` pixels per side; RGB for 3 channels, grey ("L", ITU-R 601) for 1.

    Shrinking uses Lanczos with antialiasing, enlarging is bicubic, a square of the right size keeps its pixels. Raises ValueError
    for other channels or a size outside 1..4096.
    """
    if channels not in (1, 3):
        raise ValueError(f"pictures have 1 or 3 channels, not {channels}")
    if not 1 <= size <= 4096:
        raise ValueError(f"a side of {size} pixels; 1 to 4096 are accepted")
    box = crop_box(*picture.size)
    side = box[2] - box[0]
    if side == size:
        square = picture.crop(box)
    elif side > size:  # reducing_gap shrinks with a box filter first: 5 times as fast for a photo
        square = picture.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=4.0)
    else:
        square = picture.resize((size, size), Image.Resampling.BICUBIC, box=box)
    return square.convert("L" if channels == 1 else "RGB")


def crop_preview(picture: Image.Image, max_side: int = 320) -> Image.Image:
    """An RGB picture of at most `max_side` pixels per side that shows what centre_crop keeps: the rest dimmed, the crop outlined.

    Pictures smaller than half of max_side are enlarged by a whole factor, so that the outline does not cover them.
    """
    width, height = picture.size
    scale = max_side / max(width, height)
    if scale >= 1:
        scale = float(int(scale))
    shown_size = (max(round(width * scale), 1), max(round(height * scale), 1))
    rule = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    shown = picture.convert("RGB").resize(shown_size, rule, reducing_gap=None if scale >= 1 else 4.0)
    box = crop_box(*shown_size)
    dimmed = Image.blend(shown, Image.new("RGB", shown_size, (15, 23, 42)), 0.65)
    dimmed.paste(shown.crop(box), box[:2])
    side = box[2] - box[0]
    if side >= 12:
        draw = ImageDraw.Draw(dimmed)
        inner = (box[0], box[1], box[2] - 1, box[3] - 1)
        draw.rectangle(inner, outline=(129, 140, 248), width=max(2, side // 120))
    return dimmed


def to_array(picture: Image.Image) -> np.ndarray:
    """RGB -> uint8 (3, H, W), grey ("L") -> uint8 (1, H, W). Raises ValueError for other modes."""
    if picture.mode not in ("L", "RGB"):
        raise ValueError(f"picture of mode {picture.mode}; L and RGB are accepted")
    pixels = np.asarray(picture)
    return np.ascontiguousarray(pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1))
