"""Files: atomic writes, damaged files, values for strict JSON, targets that cannot be written, digests."""

import hashlib
import json
import math
import os

import pytest

from ddpm_app.files import check_target, file_digest, plain, read_json, read_text, write_atomically


def test_write_atomically_makes_the_folder_and_replaces_the_file(tmp_path):
    file = tmp_path / "a" / "b" / "note.txt"
    write_atomically(file, "ä")
    assert file.read_bytes() == "ä".encode()
    write_atomically(file, b"\x00\x01")
    assert file.read_bytes() == b"\x00\x01" and file.stat().st_mode & 0o777 == 0o644
    assert os.listdir(file.parent) == ["note.txt"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_write_atomically_keeps_the_old_file_when_it_fails(tmp_path, monkeypatch, step):
    file = tmp_path / "note.txt"
    file.write_text("old")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, "new")
    assert file.read_text() == "old" and os.listdir(tmp_path) == ["note.txt"]


def test_read_text_is_empty_for_what_is_not_text(tmp_path):
    (tmp_path / "text").write_text("words")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    assert read_text(tmp_path / "text") == "words"
    assert read_text(tmp_path / "bytes") == read_text(tmp_path / "missing") == read_text(tmp_path) == ""


@pytest.mark.parametrize("content", [b"", b"{", b'{"a": 1', b"[1, 2]", b"3", b"null", b"\xff\xfe", b'{"a": 1} x'])
def test_read_json_is_empty_for_damaged_files(tmp_path, content):
    (tmp_path / "f.json").write_bytes(content)
    assert read_json(tmp_path / "f.json") == {}


def test_read_json_reads_objects(tmp_path):
    (tmp_path / "f.json").write_text('{"a": [1, null]}')
    assert read_json(tmp_path / "f.json") == {"a": [1, None]}
    assert read_json(tmp_path / "missing.json") == read_json(tmp_path) == {}


def test_plain_makes_values_for_strict_json():
    value = {"a": (1, math.nan), 2: [math.inf, -math.inf, 0.5], "b": {"c": True, "d": "text", "e": None}}
    assert plain(value) == {"a": [1, None], "2": [None, None, 0.5], "b": {"c": True, "d": "text", "e": None}}
    json.dumps(plain(value), allow_nan=False)


def test_check_target_names_what_cannot_be_written(tmp_path):
    check_target(tmp_path / "new" / "folder" / "image.png")
    assert not (tmp_path / "new").exists(), "it makes no folder"
    with pytest.raises(ValueError, match=f"{tmp_path} is a folder"):
        check_target(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="nothing can be written there") as refused:
        check_target(tmp_path / "file" / "image.png")
    assert refused.value.filename == str(tmp_path / "file")


def test_file_digest_is_sha256_of_all_files_in_order(tmp_path):
    first, second = tmp_path / "1", tmp_path / "2"
    first.write_bytes(b"a" * (2**22 + 1))  # more than one block
    second.write_bytes(b"b")
    assert file_digest(first, second) == hashlib.sha256(b"a" * (2**22 + 1) + b"b").hexdigest()
    assert file_digest(first, second) != file_digest(second, first)
