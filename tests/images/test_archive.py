"""Uploaded ZIPs: only images are unpacked, under safe names."""

import io
import os
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddpm_app.images import archive as uploads
from ddpm_app.images.datasets import load_data


def png(value=90):
    out = io.BytesIO()
    Image.new("RGB", (12, 10), (value, 40, 200)).save(out, "PNG")
    return out.getvalue()


def archive(tmp_path, files, name="my photos.zip"):
    with zipfile.ZipFile(tmp_path / name, "w", zipfile.ZIP_DEFLATED) as z:
        for file, content in files:
            z.writestr(file, content)
    return tmp_path / name


@pytest.mark.parametrize("around", ["", "all/"])
def test_classes_are_the_sub_folders(tmp_path, around):
    files = [(f"{around}cats/{k}.png", png(k)) for k in range(3)] + [(f"{around}dogs/sub/{k}.JPG", png(k)) for k in range(2)]
    files += [(f"{around}notes.txt", "no image"), (f"__MACOSX/{around}cats/._0.png", b"x"), (f"{around}cats/.hidden.png", b"x")]
    place, counts, bad = uploads.unpack_images(archive(tmp_path, files), tmp_path / "out")
    assert counts == {"cats": 3, "dogs": 2} and place.name.startswith("my-photos-")
    data = load_data(str(place), image_size=16)
    assert data.classes == ("cats", "dogs") and len(data) == 5 and data.images.shape[1:] == (3, 16, 16)
    again, *_ = uploads.unpack_images(tmp_path / "my photos.zip", tmp_path / "out")
    assert again == place and len(list((tmp_path / "out").iterdir())) == 1


@pytest.mark.parametrize("name", ["../evil.png", "a/../../evil.png", "/etc/evil.png", "C:/evil.png", "a\\..\\..\\evil.png"])
def test_names_that_lead_out_of_the_zip_are_refused(tmp_path, name):
    file = tmp_path / "e.zip"
    with zipfile.ZipFile(file, "w") as z:
        info = zipfile.ZipInfo("x")
        info.filename = name
        z.writestr(info, png())
    with pytest.raises(ValueError, match="leads out"):
        uploads.unpack_images(file, tmp_path / "out")
    assert not list(tmp_path.rglob("*.png"))


def test_links_and_odd_class_names_become_plain_files(tmp_path):
    link = zipfile.ZipInfo("cats/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "l.zip", "w") as z:
        z.writestr(link, "/etc/passwd")
        z.writestr("<b>$(x)/1.png", png())
    place, counts, bad = uploads.unpack_images(tmp_path / "l.zip", tmp_path / "out")
    assert not any(p.is_symlink() for p in place.rglob("*")) and set(counts) == {"_b___x_"} and bad == ["cats/link.png"]


def test_limits_on_files_and_bytes(tmp_path, monkeypatch):
    many = archive(tmp_path, [(f"a/{k}.png", png()) for k in range(5)])
    monkeypatch.setattr(uploads, "MAX_FILES", 4)
    with pytest.raises(ValueError, match="5 files; 4"):
        uploads.unpack_images(many, tmp_path / "out")
    monkeypatch.setattr(uploads, "MAX_FILES", 10)
    monkeypatch.setattr(uploads, "MAX_TOTAL", 200)
    with pytest.raises(ValueError, match="more than"):
        uploads.unpack_images(many, tmp_path / "out")
    # the sizes stated in the ZIP are not trusted
    monkeypatch.setattr(uploads, "_image_entries", lambda z: [("a", e) for e in z.infolist()])
    with pytest.raises(ValueError, match="more than"):
        uploads.unpack_images(many, tmp_path / "out")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize(
    "content, says",
    [([("a/1.txt", "x")], "no images"), ([("a/1.png", b"not one"), ("a/2.png", b"")], "none of the images"), (None, "damaged")],
)
def test_archives_without_images_are_refused(tmp_path, content, says):
    file = archive(tmp_path, content) if content else tmp_path / "r.zip"
    if content is None:
        file.write_bytes(os.urandom(500))
    with pytest.raises(ValueError, match=says):
        uploads.unpack_images(file, tmp_path / "out")


def test_three_unreadable_among_many_are_skipped(tmp_path, capsys):
    files = [(f"a/{k}.png", png(k)) for k in range(20)] + [(f"a/bad{k}.png", b"\x89PNG broken") for k in range(3)]
    place, counts, bad = uploads.unpack_images(archive(tmp_path, files), tmp_path / "out")
    assert counts["a"] == 20 == len(load_data(str(place))) and bad == [f"a/bad{k}.png" for k in range(3)]
    out = capsys.readouterr().out
    assert out.count("skipped") == 3 and "-bad2.png" in out
    assert np.asarray(load_data(str(place)).images).std() > 0
