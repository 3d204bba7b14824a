"""Unpacks an uploaded ZIP of images, one sub-folder per class, into a folder for datasets.load_data. The ZIP is not trusted."""

from __future__ import annotations

import hashlib
import re
import shutil
import zipfile
import zlib
from collections import Counter
from pathlib import Path, PurePosixPath

from ddpm_app.images.decode import IMAGE_SUFFIXES, MAX_BYTES, NAMES, PictureError, open_picture

MAX_FILES = 100_000
MAX_TOTAL = 2**30  # bytes unpacked


def unpack_images(archive: Path, root: Path) -> tuple[Path, Counter, list[str]]:
    """Unpack the images of a ZIP into a new folder below root.

    Returns the folder, the number of readable images in each class, and the names of unreadable images. Unreadable images are
    unpacked too, so that a training run lists them as it does for any folder.

    The folder's name contains a hash of the ZIP. A file's new name consists of a number and its old name with unusual characters
    replaced. A single folder around the classes is removed; images outside every sub-folder form one class, "images". Files that
    are not images are skipped. Raises ValueError for names that lead out of the ZIP, encrypted or damaged archives, too many or
    too large files, and archives without images.
    """
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()[:8]
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", archive.stem).strip("-")[:40] or "images"
    folder, temporary = root / f"{stem}-{digest}", root / f".{stem}-{digest}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with zipfile.ZipFile(archive) as z:
            files = _image_entries(z)
            counts, bad = _write(z, files, temporary)
        shutil.rmtree(folder, ignore_errors=True)
        temporary.rename(folder)
    # zipfile raises NotImplementedError for an unknown compression, RuntimeError for an encrypted entry
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError("the ZIP is damaged, encrypted or of a kind that cannot be read") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder, counts, bad


def _image_entries(z: zipfile.ZipFile) -> list[tuple[str, zipfile.ZipInfo]]:
    """(class, entry) of every image. All checks happen before anything is unpacked."""
    entries = [e for e in z.infolist() if not e.is_dir()]
    if len(entries) > MAX_FILES:
        raise ValueError(f"the ZIP holds {len(entries)} files; {MAX_FILES} are accepted")
    images = []
    for entry in entries:
        path = PurePosixPath(entry.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise ValueError(f"the ZIP holds a name that leads out of it: {entry.filename[:80]!r}")
        if path.suffix.lower() in IMAGE_SUFFIXES and not any(p.startswith((".", "__MACOSX")) for p in path.parts):
            images.append((path, entry))
    if not images:
        raise ValueError(f"the ZIP holds no images ({NAMES})")
    if sum(entry.file_size for _, entry in images) > MAX_TOTAL:
        raise ValueError(f"the ZIP unpacks to more than {MAX_TOTAL >> 20} MB")
    depths = [len(path.parts) for path, _ in images]
    has_outer_folder = len({path.parts[0] for path, _ in images}) == 1 and min(depths) > 1 and max(depths) > 2
    named = []
    for path, entry in images:
        parts = path.parts[1:] if has_outer_folder else path.parts
        named.append((re.sub(r"[^\w .-]", "_", parts[0]).strip(" .")[:60] or "class" if len(parts) > 1 else "images", entry))
    return named


def _write(z: zipfile.ZipFile, files: list[tuple[str, zipfile.ZipInfo]], folder: Path) -> tuple[Counter, list[str]]:
    counts, left, bad = Counter(), MAX_TOTAL, []
    for k, (name, entry) in enumerate(files):
        with z.open(entry) as f:
            data = f.read(min(MAX_BYTES, left) + 1)  # the ZIP's directory may state wrong sizes
        left -= len(data)
        if left < 0:
            raise ValueError(f"the ZIP unpacks to more than {MAX_TOTAL >> 20} MB")
        source = Path(entry.filename.replace("\\", "/"))
        if len(data) > MAX_BYTES:
            bad.append(f"{name}/{source.name[:80]}")
            continue
        stem = re.sub(r"[^\w-]+", "_", source.stem)[:40]
        file = folder / name / f"{k:06d}-{stem}{source.suffix.lower()}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        try:
            open_picture(data)
            counts[name] += 1
        except PictureError:
            bad.append(f"{name}/{source.name[:80]}")
    if not counts:
        raise ValueError("none of the images in the ZIP can be read")
    return counts, bad
