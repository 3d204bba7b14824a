"""A stranger's ZIP of images, one sub-folder a class, unpacked into a folder that data.load_data reads."""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath

from ddpm_app.images.decode import MAX_BYTES, PictureError, open_picture
from ddpm_app.images.pixels import IMAGE_SUFFIXES

MAX_FILES = 100_000
MAX_TOTAL = 2**30  # bytes unpacked


def unpack_images(archive: Path, root: Path) -> tuple[Path, Counter, list[str]]:
    """Unpack the images of a ZIP below root, in a folder named after its content; returns it, the readable images in each class, and
    the names of those that cannot be read: they are unpacked too, so that a run lists them as it does those of any folder.

    Of a name in the archive only the class and the file's own reach the disk, odd characters replaced, behind a number. One
    folder around the classes is taken off; images outside every sub-folder form a class of their own. Everything else is left
    out. Raises ValueError for names that climb out, encrypted or damaged archives, too many or too large files, no images.
    """
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", archive.stem).strip("-")[:40] or "images"
    place, part = root / f"{stem}-{digest}", root / f".{stem}-{digest}.tmp"
    shutil.rmtree(part, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as z:
            files = _image_entries(z)
            counts, bad = _write(z, files, part)
        shutil.rmtree(place, ignore_errors=True)
        part.rename(place)
    # what zipfile raises: NotImplementedError for a compression it does not know, RuntimeError for an encrypted entry
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError("the ZIP is damaged, encrypted or of a kind that cannot be read") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return place, counts, bad


def _image_entries(z: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    """(class, entry) of every image, judged before anything is unpacked."""
    entries = [e for e in z.infolist() if not e.is_dir()]
    if len(entries) > MAX_FILES:
        raise ValueError(f"the ZIP holds {len(entries)} files; {MAX_FILES} are accepted")
    found = []
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise ValueError(f"the ZIP holds a name that leads out of it: {entry.filename[:80]!r}")
        if path.suffix.lower() in IMAGE_SUFFIXES and not any(p.startswith((".", "__MACOSX")) for p in path.parts):
            found.append((path, entry))
    if not found:
        raise ValueError("the ZIP holds no images (PNG, JPEG, WebP, GIF, BMP or TIFF)")
    if sum(entry.file_size for _, entry in found) > MAX_TOTAL:
        raise ValueError(f"the ZIP unpacks to more than {MAX_TOTAL >> 20} MB")
    tops = {path.parts[0] for path, _ in found}
    around = len(tops) == 1 and all(len(path.parts) > 1 for path, _ in found) and any(len(path.parts) > 2 for path, _ in found)
    named = []
    for path, entry in found:
        parts = path.parts[1:] if around else path.parts
        named.append((re.sub(r"[^\w .-]", "_", parts[0]).strip(" .")[:60] or "class" if len(parts) > 1 else "images", entry))
    return named


def _write(z: zipfile.ZipFile, files: list[tuple[str, zipfile.ZipInfo]], part: Path) -> tuple[Counter, list[str]]:
    counts, left, bad = Counter(), MAX_TOTAL, []
    for k, (name, entry) in enumerate(files):
        with z.open(entry) as f:
            data = f.read(min(MAX_BYTES, left) + 1)  # the sizes in the directory are the sender's word
        left -= len(data)
        if left < 0:
            raise ValueError(f"the ZIP unpacks to more than {MAX_TOTAL >> 20} MB")
        own = Path(entry.filename.replace("\\", "/"))
        if len(data) > MAX_BYTES:
            bad.append(f"{name}/{own.name[:80]}")
            continue
        stem = re.sub(r"[^\w-]+", "_", own.stem)[:40]
        file = part / name / f"{k:06d}-{stem}{own.suffix.lower()}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        try:
            open_picture(data)
            counts[name] += 1
        except PictureError:
            bad.append(f"{name}/{own.name[:80]}")
    if not counts:
        raise ValueError("none of the images in the ZIP can be read")
    return counts, bad
