"""Files: atomic writes, reads that accept missing or damaged files, values for strict JSON."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def plain(value):
    """The value for strict JSON: NaN and infinities become None, tuples become lists, keys become text."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_text(file: Path) -> str:
    """The text of a file; "" if it cannot be read as text."""
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError):
        return ""


def file_digest(*files: Path) -> str:
    """SHA-256 of the files' bytes, one after another, as 64 hexadecimal digits."""
    total = hashlib.sha256()
    for file in files:
        with open(file, "rb") as f:
            while block := f.read(2**22):
                total.update(block)
    return total.hexdigest()


def write_atomically(file: Path, content: bytes | str) -> None:
    """Write a temporary file in the same folder, then rename it. A reader sees the old or the new content, never a part of it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(content.encode() if isinstance(content, str) else content)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(name, 0o644)
        os.replace(name, file)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def check_target(file: Path) -> None:
    """Raise ValueError or OSError with the path if this file cannot be written later. Creates nothing."""
    if file.is_dir():
        raise ValueError(f"{file} is a folder; a file is to be written there")
    place = next(p for p in file.absolute().parents if p.exists())  # the writer makes the folders that are missing
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise OSError(error.errno, f"nothing can be written there ({error.strerror})", str(place)) from None


def save_tensors(file: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file under a temporary name, then rename it."""
    from safetensors.torch import save_file  # imports torch, which most readers of files do not need

    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, metadata=metadata)
        os.chmod(temporary, 0o644)  # safetensors writes 0600, which a server under another user could not read
        os.replace(temporary, file)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def read_json(file: Path) -> dict:
    """The JSON object in a file; {} if the file is missing or damaged or holds another value."""
    try:
        value = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
