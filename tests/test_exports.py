"""What `import ddpm_app` gives: names imported when first used, the two shortcuts load and sample."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

import ddpm_app
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.paths import PROJECT
from ddpm_app.studio import Request, Studio


def test_the_package_is_imported_without_torch():
    code = "import sys, time; begun = time.perf_counter(); import ddpm_app; print(time.perf_counter() - begun, 'torch' in sys.modules, 'numpy' in sys.modules)"
    outputs = [
        subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True).stdout for _ in range(3)
    ]
    assert min(float(output.split()[0]) for output in outputs) < 0.3
    assert all(output.split()[1:] == ["False", "False"] for output in outputs)


def test_every_exported_name_is_the_defining_modules_own():
    assert ddpm_app.Denoiser is Denoiser and ddpm_app.SAMPLERS is SAMPLERS and ddpm_app.Request is Request and ddpm_app.Studio is Studio
    assert all(getattr(ddpm_app, name) is not None and name in dir(ddpm_app) for name in ddpm_app.__all__)
    assert ddpm_app.make_schedule("linear").T == 1000 and issubclass(ddpm_app.UNet, torch.nn.Module)
    with pytest.raises(AttributeError, match="no attribute 'Unet'"):
        ddpm_app.Unet  # noqa: B018
    assert (PROJECT / "ddpm_app" / "py.typed").is_file()


def test_the_version_is_the_projects():
    assert f'version = "{ddpm_app.__version__}"' in (PROJECT / "pyproject.toml").read_text()


def test_load_opens_a_name_and_a_folder():
    by_name, by_path = ddpm_app.load("mnist", "cpu", "fp32"), ddpm_app.load(PROJECT / "checkpoints" / "mnist", "cpu", "fp32")
    x, sigma = torch.randn(1, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.tensor(2.0)
    with torch.inference_mode():
        assert torch.equal(by_name(x, sigma), by_path(x, sigma)) and by_name(x, sigma).shape == x.shape
    with pytest.raises(ValueError, match="did you mean 'mnist'"):
        ddpm_app.load("mnits")
    with pytest.raises(ValueError, match="no config.json"):
        ddpm_app.load(PROJECT / "tests")


def test_sample_is_the_studios_images():
    settings = {"checkpoint": "mnist", "label": "3", "n": 2, "evaluations": 4}
    images, labels = ddpm_app.sample("cpu", "fp32", **settings)
    expected, _ = Studio(device="cpu", precision="fp32").images(Request(**settings))
    assert images.shape == (2, 28, 28, 1) and labels.tolist() == [3, 3] and np.array_equal(images, expected)
    with pytest.raises(TypeError, match="colour"):
        ddpm_app.sample(colour="red")
