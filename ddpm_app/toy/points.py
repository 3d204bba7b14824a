"""Points from a .csv or .npy file of shape (N, d). Each error is one sentence."""

from __future__ import annotations

import csv
import random
import tokenize
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ddpm_app.networks.mlp import MAX_DIM
from ddpm_app.toy.shapes import MAX_POINTS, ToyData, ToyDataError, make_data

MAX_BYTES = 256 * 2**20


def load_points(path: Path | str, seed: int = 0) -> ToyData:
    """Points from a .csv (commas; an optional header; a last column named label or class holds classes) or a .npy of shape (N, d).

    Raises ToyDataError for any other file. Pickled objects are never loaded."""
    path = Path(path)
    if not path.is_file():
        raise ToyDataError(f"{path.name} is not a file")
    if path.stat().st_size > MAX_BYTES:
        raise ToyDataError(f"{path.name} has {path.stat().st_size / 2**20:.0f} MB; accepted are up to {MAX_BYTES // 2**20} MB")
    if path.suffix.lower() == ".npy":
        table, names, notes = _read_npy(path, seed)
    elif path.suffix.lower() in (".csv", ".txt"):
        table, names, notes = _read_csv(path, seed)
    else:
        raise ToyDataError(f"{path.name} is neither a .csv nor a .npy file")
    return from_points(table, path.stem, names, notes)


def from_points(x: np.ndarray, name: str, labels: list[str] | None = None, notes: Sequence[str] = ()) -> ToyData:
    """Checked points from a table (N, d), or (N,) for one column. labels: the class name of each point. Raises ToyDataError."""
    notes = list(notes)
    if x.ndim == 1:
        x = x[:, None]
    if x.ndim != 2 or x.shape[1] < 1:
        raise ToyDataError(f"{name} has shape {x.shape}; accepted is a table (N, d) with one row per point")
    n, d = x.shape
    if d > MAX_DIM:
        raise ToyDataError(f"{name} has {d} columns; accepted are 1 to {MAX_DIM}")
    if n < 2:
        raise ToyDataError(f"{name} has {n} point{'s' * (n != 1)}; at least 2 are needed")
    x = x.astype(np.float64)
    bad = np.argwhere(~np.isfinite(x))
    if len(bad):
        raise ToyDataError(f"{name} holds {len(bad)} values that are not finite numbers, first in row {bad[0][0] + 1}")
    if np.abs(x).max() > 1e30:
        raise ToyDataError(f"{name} holds a number of size {np.abs(x).max():.1g}; accepted are sizes up to 1e30")
    scale = float(np.sqrt(x.var(0).mean()))
    if not 1e-30 < scale < 1e30:
        raise ToyDataError(f"the points of {name} are all the same (standard deviation {scale:.1g}); at least 2 must differ")
    if np.abs(x.mean(0)).max() > 1e5 * scale:  # the points are kept in float32, which has seven digits
        far = np.abs(x.mean(0)).max() / scale
        raise ToyDataError(f"the points of {name} lie {far:.0e} standard deviations away from 0; subtract their mean first")
    if d == 1:
        notes.append("one column: shown along a line")
    classes = tuple(dict.fromkeys(sorted(labels))) if labels is not None else ()
    if len(classes) > 50:
        raise ToyDataError(f"{name} has {len(classes)} classes; accepted are 2 to 50")
    number = {c: k for k, c in enumerate(classes)}
    label = torch.tensor([number[c] for c in labels]) if len(classes) > 1 else torch.zeros(n, dtype=torch.int64)
    classes = classes if len(classes) > 1 else ()
    return ToyData(name, torch.from_numpy(x).float(), label, classes, None, torch.from_numpy(x.mean(0)), scale, tuple(notes))


def _subsampled(n: int) -> str:
    return f"{n} points: a random {MAX_POINTS} of them are used"


def open_npy(path: Path) -> np.ndarray:
    """The real numbers of a .npy file, of any shape, mapped into memory. Raises ToyDataError. Pickled objects are never loaded."""
    with path.open("rb") as f:
        if f.read(6) != b"\x93NUMPY":  # np.load would treat any other file as a pickle
            raise ToyDataError(f"{path.name} is not a .npy file")
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, TypeError, OSError, EOFError, SyntaxError, OverflowError, MemoryError, tokenize.TokenError) as error:
        if "object" in str(error).lower() or "pickle" in str(error).lower():
            raise ToyDataError(f"{path.name} holds Python objects, which are not opened; save plain numbers of shape (N, d)") from error
        raise ToyDataError(f"{path.name} is cut short or not a .npy file") from error
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise ToyDataError(f"{path.name} holds {getattr(array, 'dtype', 'an archive')}; accepted are real numbers of shape (N, d)")
    return array


def _read_npy(path: Path, seed: int) -> tuple[np.ndarray, None, list[str]]:
    array = open_npy(path)
    if array.ndim not in (1, 2):
        raise ToyDataError(f"{path.name} has shape {array.shape}; accepted is a table (N, d) with one row per point")
    if len(array) <= MAX_POINTS:
        return np.array(array), None, []
    chosen = np.sort(np.random.default_rng(seed).choice(len(array), MAX_POINTS, replace=False))
    return np.array(array[chosen]), None, [_subsampled(len(array))]


def _read_csv(path: Path, seed: int) -> tuple[np.ndarray, list[str] | None, list[str]]:
    header, rows, count, width = None, [], 0, 0
    pick = random.Random(seed)
    try:
        with path.open(newline="", encoding="utf-8-sig") as f:
            for line, row in enumerate(csv.reader(f), 1):
                if not any(cell.strip() for cell in row):
                    continue
                if not width:
                    width = len(row)
                    if not any(_is_number(cell) for cell in row):
                        header = (line, row)
                        continue
                if len(row) != width:
                    raise ToyDataError(f"line {line} of {path.name} has {len(row)} columns, the first has {width}")
                count += 1  # reservoir sampling: each row is kept with the same probability
                if len(rows) < MAX_POINTS:
                    rows.append((line, row))
                elif (at := pick.randrange(count)) < MAX_POINTS:
                    rows[at] = (line, row)
    except (UnicodeDecodeError, csv.Error) as error:
        raise ToyDataError(f"{path.name} is not a text table with commas") from error
    if not rows and header is None:
        raise ToyDataError(f"{path.name} is empty")
    if not rows:  # a file of one line has no header
        header, rows = None, [header]
    notes = [] if count <= MAX_POINTS else [_subsampled(count)]
    labels, used = None, width
    if header and header[1][-1].strip().lower() in ("label", "class") and width > 1:
        labels, used = [row[-1].strip() for _, row in rows], width - 1
    table = np.empty((len(rows), used))
    for i, (line, row) in enumerate(rows):
        for j in range(used):
            try:
                table[i, j] = float(row[j])
            except ValueError:
                raise ToyDataError(f"line {line}, column {j + 1} of {path.name} is {row[j].strip()[:30]!r}, not a number") from None
    return table, labels, notes


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def load(name: str, n: int = 10_000, seed: int = 0, **options) -> ToyData:
    """A named set of n points, or the points of a .csv or .npy file. options: see make_data. Raises ToyDataError."""
    if Path(name).suffix.lower() in (".csv", ".npy", ".txt"):
        return load_points(name, seed)
    return make_data(name, n, seed, **options)
