"""Points read from .csv and .npy files: what is accepted, and the errors for what is not."""

import math

import numpy as np
import pytest
import torch

from ddpm_app.toy import points
from ddpm_app.toy.points import load, load_points
from ddpm_app.toy.shapes import MAX_POINTS, ToyDataError


def write(path, text):
    path.write_text(text)
    return path


def test_a_csv_file_may_have_a_header_and_classes(tmp_path):
    data = load(str(write(tmp_path / "a.csv", "x,y,label\n0,1,cat\n2,3,dog\n4,5.5,cat\n")))
    assert data.x.tolist() == [[0, 1], [2, 3], [4, 5.5]] and data.classes == ("cat", "dog") and data.label.tolist() == [0, 1, 0]
    assert len(load_points(write(tmp_path / "b.csv", "1,2\n3,4\n"))) == 2


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("x,y\n1,2\n3,hello\n", "line 3, column 2 of a.csv is 'hello', not a number"),
        ("1,2\n3,nan\n", "1 values that are not finite numbers, first in row 2"),
        ("1,2\n3,inf\n", "not finite"),
        ("1,2\n", "1 point; at least 2"),
        ("", "is empty"),
        ("1,2\n3\n", "line 2 of a.csv has 1 columns, the first has 2"),
        ("1,2\n1,2\n1,2\n", "are all the same"),
        (",".join(["1"] * 65) + "\n" + ",".join(["2"] * 65), "65 columns; accepted are 1 to 64"),
        ("x,y\n", "'x', not a number"),
    ],
)
def test_a_bad_csv_file_raises_one_sentence(tmp_path, text, sentence):
    with pytest.raises(ToyDataError) as caught:
        load_points(write(tmp_path / "a.csv", text))
    assert sentence in str(caught.value) and "\n" not in str(caught.value)


def test_npy_files_are_read_or_refused_by_shape_type_and_values(tmp_path):
    file = tmp_path / "a.npy"

    def save_and_load(array, **options):
        np.save(file, array, **options)
        return load_points(file)

    assert save_and_load(np.random.default_rng(0).normal(size=(20, 64))).dim == 64
    assert save_and_load(np.arange(10)).dim == 1 and "one column" in save_and_load(np.arange(10)).notes[0]
    big = save_and_load(np.random.default_rng(0).normal(size=(1_000_000, 2)).astype(np.float32))
    assert len(big) == MAX_POINTS and "1000000 points: a random 100000" in big.notes[0]
    for array, sentence in [
        (np.zeros((1, 2)), "1 point"),
        (np.zeros((3, 2, 2)), "shape (3, 2, 2)"),
        (np.full((5, 2), np.nan), "not finite"),
        (np.zeros((5, 65)), "65 columns"),
        (np.array([["a", "b"]] * 3), "accepted are real numbers"),
        (np.zeros((5, 2), complex), "accepted are real numbers"),
        (np.float64(3), "shape ()"),
        (np.zeros((0, 2)), "0 points"),
    ]:
        with pytest.raises(ToyDataError) as caught:
            save_and_load(array)
        assert sentence in str(caught.value)
    with pytest.raises(ToyDataError, match="Python objects, which are not opened"):
        save_and_load(np.array([[object(), 1]] * 3, dtype=object), allow_pickle=True)
    np.save(file, np.zeros((500, 2)))
    unclosed = file.read_bytes().replace(b"(500, 2), }", b"(5000, 2), ")
    for content in (b"", b"\x93NUMPY\x01\x00", b"hello", unclosed):
        file.write_bytes(content)
        with pytest.raises(ToyDataError, match="not a .npy file"):
            load_points(file)
    for array, sentence in ((np.eye(9) + 1e9, "subtract their mean first"), (1e300 * np.eye(9), "a number of size 1e\\+300")):
        with pytest.raises(ToyDataError, match=sentence):
            save_and_load(array)
    with pytest.raises(ToyDataError, match="neither"):
        load_points(write(tmp_path / "a.pkl", "x"))
    with pytest.raises(ValueError, match="unknown data 'moon'; did you mean 'moons'"):
        load("moon")


def test_a_long_csv_file_is_subsampled_evenly_with_a_note(tmp_path, monkeypatch):
    monkeypatch.setattr(points, "MAX_POINTS", 1000)
    lines = "".join(f"{k},{k % 7},{'first' if k < 20_000 else 'second'}\n" for k in range(40_000))
    data = load_points(write(tmp_path / "a.csv", "x,y,class\n" + lines))
    assert len(data) == 1000 and data.notes == ("40000 points: a random 1000 of them are used",)
    assert len(data.x[:, 0].unique()) == 1000 and abs(float(data.x[:, 0].mean()) - 20_000) < 5 * 40_000 / math.sqrt(12_000)
    assert torch.equal(data.label, (data.x[:, 0] >= 20_000).long())
