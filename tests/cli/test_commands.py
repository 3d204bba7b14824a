"""The commands sample, noise and models: pixels equal to the Studio's; an error is one sentence and exit code 2."""

import json
import os
import shlex
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ddpm_app.cli import main as cli
from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.diffusion.schedules import make_schedule
from ddpm_app.studio import png_settings
from ddpm_app.studio.forward import forward_process
from ddpm_app.studio.studio import Request, Studio


@pytest.fixture(autouse=True)
def use_test_models(roots, monkeypatch):
    """The commands use the test models, on the CPU in float32."""
    real = Studio.__init__
    monkeypatch.setattr(Studio, "__init__", lambda self, *a, **kw: real(self, roots, "cpu", "fp32"))
    monkeypatch.setattr("ddpm_app.cli.models.model_roots", lambda: roots)


def sample(*flags, out):
    return cli.main(
        ["sample", "--checkpoint", "cifar10-random", "--n", "4", "--evaluations", "3", "--seed", "9", *flags, "--out", str(out)]
    )


def test_sample_npz_equals_studio_sample(tmp_path, studio):
    assert sample("--label", "all", "--sampler", "unipc", "--guidance", "2", out=tmp_path / "s.npz") == 0
    with np.load(tmp_path / "s.npz") as z:
        images, labels = z["arr_0"], z["arr_1"]
    frame = list(studio.sample(Request("cifar10-random", "all", 4, 2.0, "unipc", 3, seed=9)))[-1]
    assert images.dtype == np.uint8 and images.shape == (4, 16, 16, 3) and labels.dtype == np.int64
    assert (images.transpose(0, 3, 1, 2) == frame.x).all() and labels.tolist() == [0, 1, 2, 3]


def test_sample_writes_a_grid_or_a_folder_of_pngs(tmp_path):
    assert sample(out=tmp_path / "grid.png") == 0 and sample("--label", "dog", out=tmp_path / "many") == 0
    assert Image.open(tmp_path / "grid.png").size == (33, 33)
    files = sorted((tmp_path / "many").glob("*.png"))
    assert len(files) == 4 and png_settings.read(files[2])["seed"] == 11 and Image.open(files[2]).size == (16, 16)
    assert not [p for p in tmp_path.rglob(".*")]  # no temporary file is left


@pytest.mark.parametrize("name", SAMPLERS)
def test_sample_runs_with_every_sampler(name, tmp_path):
    assert sample("--sampler", name, out=tmp_path / "x.npz") == 0


def test_sample_takes_a_tuned_models_defaults_and_says_that_its_guidance_is_fixed(tmp_path, tuned, capsys):
    flags = ["sample", "--checkpoint", str(tmp_path / "models" / "mnist-tuned"), "--n", "2", "--label", "3"]
    assert cli.main([*flags, "--out", str(tmp_path / "a.npz")]) == 0
    said = capsys.readouterr()
    assert "2 evaluations each" in said.out and not said.err
    assert cli.main([*flags, "--guidance", "4", "--out", str(tmp_path / "b")]) == 0
    assert "guidance is fixed at 2.5" in capsys.readouterr().err
    settings = png_settings.read(tmp_path / "b" / "00000.png")
    assert (settings["guidance"], settings["sampler"], settings["evaluations"]) == (2.5, "consistency", 2)
    with np.load(tmp_path / "a.npz") as z:
        assert (np.asarray(Image.open(tmp_path / "b" / "00001.png")) == z["arr_0"][1, :, :, 0]).all()


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--sampler", "dimm"], "did you mean 'ddim'"),
        (["--label", "horze"], "did you mean 'horse'"),
        (["--checkpoint", "nope-at-all-xyz"], "unknown checkpoint"),
        (["--n", "0"], "n is 0"),
        (["--evaluations", "1000000000"], "evaluations is 1000000000"),
        (["--guidance", "nan"], "guidance is nan"),
        (["--n", "1000000", "--checkpoint", "huge64"], "memory limit"),
    ],
)
def test_bad_requests_exit_with_2_and_one_sentence(flags, message, tmp_path, capsys, roots):
    from tests.conftest import make_checkpoint

    if "huge64" in flags:
        make_checkpoint(roots[0] / "huge64", size=64)
    assert sample(*flags, out=tmp_path / "s.npz") == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "s.npz").exists()


def test_a_folder_with_spaces_in_its_name_is_accepted_as_checkpoint(tmp_path, capsys):
    from tests.conftest import make_checkpoint

    make_checkpoint(tmp_path / "my good one")
    request = Request(str(tmp_path / "my good one"), "3", 1, evaluations=1)
    command = shlex.split(request.as_command())[3:]
    command[-1] = str(tmp_path / "out")
    assert cli.main(command) == 0
    assert png_settings.read(tmp_path / "out" / "00000.png")["label"] == 3


def test_an_unknown_device_and_an_output_that_is_a_directory_are_refused(tmp_path, capsys):
    from ddpm_app.networks.device import pick_device

    with pytest.raises(ValueError, match="auto, cpu, cuda"):
        pick_device("meta")
    (tmp_path / "x.png").mkdir()
    assert sample(out=tmp_path / "x.png") == 2 and "--out" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]


def test_an_unknown_output_suffix_is_refused(tmp_path, capsys):
    assert sample(out=tmp_path / "s.jpg") == 2 and "FILE.npz" in capsys.readouterr().err


def test_noise_writes_a_grid_of_x_t(tmp_path, capsys):
    picture = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "in.png")
    flags = [
        "--image",
        str(tmp_path / "in.png"),
        "--size",
        "12",
        "--t",
        "0,500",
        "--schedule",
        "linear,cosine",
        "--out",
        str(tmp_path / "o.png"),
    ]
    assert cli.main(["noise", *flags]) == 0
    strip = np.asarray(Image.open(tmp_path / "o.png"))
    assert (strip[:12, :12] == picture).all() and strip.shape == (25, 25, 3)
    assert (strip[13:, 13:] == forward_process(picture.transpose(2, 0, 1), make_schedule("cosine"), [500])[0][0].transpose(1, 2, 0)).all()
    for bad, message in (
        (["--schedule", "cosin"], "did you mean 'cosine'"),
        (["--t", "x"], "whole numbers"),
        (["--t", "2000"], "from 0 to 1000"),
    ):
        assert cli.main(["noise", *flags, *bad]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "in.png").write_bytes(b"")
    assert cli.main(["noise", *flags]) == 2 and "ddpm_app noise:" in capsys.readouterr().err


def test_models_names_unreadable_checkpoints(capsys, roots):
    broken = roots[0] / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    assert cli.main(["models"]) == 0
    assert "not readable" in (output := capsys.readouterr()).err and "broken" in output.err and "cifar10-random" in output.out
    (broken / "config.json").unlink()
    broken.rmdir()


def test_models_prints_json(capsys):
    assert cli.main(["models", "--json"]) == 0
    models = {m["name"]: m for m in json.loads(capsys.readouterr().out)}
    assert (
        models["mnist-random"]["row"] == "eps"
        and models["mnist-random"]["image"] == "14x14x1"
        and models["cifar10-random"]["images_seen"] == 1234
    )
    assert cli.main(["models"]) == 0 and "cifar10-random" in capsys.readouterr().out


def test_help_names_every_command_and_default():
    env = {**os.environ, "COLUMNS": "200"}
    text = cli.overview().format_help()
    assert all(name in text and cli.command_parser(name).format_help() for name in cli.COMMANDS)
    text = cli.command_parser("sample").format_help()
    assert text.count("default") >= 12 and all(name in text for name in SAMPLERS)
    text = subprocess.run([sys.executable, "app.py", "--help"], capture_output=True, text=True, env=env, check=True).stdout
    assert "--port" in text and "--host" in text


def test_help_imports_no_command():
    code = "import sys; from ddpm_app.cli import main\ntry: main.main(['--help'])\nexcept SystemExit: pass\n"
    code += "assert not {'torch', 'numpy', 'ddpm_app.cli.sample'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)


def test_an_unknown_command_is_refused_and_the_commands_are_listed(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["modles"])
    assert error.value.code == 2 and "interpolate" in capsys.readouterr().err
