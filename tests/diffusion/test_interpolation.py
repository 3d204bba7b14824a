"""Great circles, codes and the way back: exact geometry, the exact Gaussian, the shipped checkpoints."""

import json
import math

import numpy as np
import pytest
import torch

from ddpm_app.cli import main as cli
from ddpm_app.diffusion import interpolation as I
from ddpm_app.diffusion.samplers import last
from ddpm_app.diffusion.schedules import make_schedule, to_vp
from ddpm_app.images.datasets import local_data
from ddpm_app.images.pixels import to_model
from ddpm_app.paths import PROJECT
from ddpm_app.studio import interpolate
from ddpm_app.studio.studio import Request, Studio
from tests.diffusion.test_likelihood import gaussian_denoiser


def test_slerp_keeps_the_norm_turns_evenly_and_is_exact_at_the_ends():
    g = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 8, 8, generator=g), torch.randn(3, 8, 8, generator=g)
    b *= a.norm() / b.norm()
    w = torch.linspace(0, 1, 11, dtype=torch.float64)
    path = I.slerp(a, b, w)
    assert torch.equal(path[0], a) and torch.equal(path[-1], b)
    norms = path.double().flatten(1).norm(dim=1)
    assert norms == pytest.approx([float(a.double().norm())] * 11, rel=1e-6)
    unit = path.double().flatten(1) / norms[:, None]
    angles = torch.acos((unit[1:] * unit[:-1]).sum(1).clamp(-1, 1))
    assert float(angles.std() / angles.mean()) < 1e-3  # equal arcs
    assert float((a.double() + b.double()).norm()) / 2 < 0.8 * float(norms[5])  # what a straight line's middle would have


def test_slerp_of_known_vectors():
    w = torch.tensor([0.0, 1 / 3, 0.5, 1.0])
    got = I.slerp(torch.tensor([2.0, 0.0]), torch.tensor([0.0, 4.0]), w)
    want = [[2, 0], [8 / 3 * math.cos(math.pi / 6), 8 / 3 * math.sin(math.pi / 6)], [3 / math.sqrt(2)] * 2, [0, 4]]
    assert torch.allclose(got, torch.tensor(want), atol=1e-6)
    near = torch.tensor([1.0, 1e-9])
    assert torch.allclose(I.slerp(torch.tensor([1.0, 0.0]), near, w)[:, 0], torch.ones(4))  # nearly parallel: no division by zero
    for a, b, says in (([1.0, 0.0], [-1.0, 0.0], "opposite"), ([0.0, 0.0], [1.0, 0.0], "zero"), ([1.0], [1.0, 0.0], "shape")):
        with pytest.raises(ValueError, match=says):
            I.slerp(torch.tensor(a), torch.tensor(b), w)


def test_noised_images_keep_the_noise_level():
    g = torch.Generator().manual_seed(1)
    x0 = torch.zeros(2, 1, 60, 60)
    x0[1] = 0.5
    eps = torch.randn(2, 1, 60, 60, generator=g)
    w = torch.linspace(0, 1, 5, dtype=torch.float64)
    own, shared = I.noised_between(x0, 2.0, eps, w), I.noised_between(x0, 2.0, eps[:1].expand(2, -1, -1, -1), w)
    assert torch.equal(own[0], x0[0] + 2 * eps[0]) and torch.equal(own[-1], x0[1] + 2 * eps[1])
    for path in (own, shared):
        assert [float(x.std()) for x in path] == pytest.approx([2.0] * 5, rel=0.05)
        assert [float(x.mean()) for x in path] == pytest.approx([0.5 * float(v) for v in w], abs=0.15)
    line = torch.lerp(x0[0] + 2 * eps[0], x0[1] + 2 * eps[0], 0.25)  # Ho et al.'s mixture, where the noise is one
    assert torch.allclose(shared[1], line, atol=1e-6)


def round_trip(denoise, x0, levels):
    """Encode and decode: (codes of unit variance, root mean squared error of each image in grey levels (B,)).

    Unit variance holds for images with noise of the lowest level. Without it, pixels that never vary in the data (MNIST's black margin)
    get smaller codes, and the more so the better the network is trained."""
    with torch.no_grad():
        code = last(I.encode(denoise, x0, levels))
        back = last(I.decode(denoise, code, levels))
    return to_vp(code, levels[-1]), 127.5 * (back - x0).double().square().flatten(1).mean(1).sqrt()


def test_round_trip_of_the_exact_gaussian_converges_to_second_order():
    mean, std = 0.1, 0.25
    x0 = (mean + std * torch.randn(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))).double()
    denoise, schedule = gaussian_denoiser(mean, std), make_schedule("linear")
    errors, codes = [], []
    for steps in (21, 41, 81):
        levels = I.code_levels(schedule, steps)
        high, low = float(levels[-1]), float(levels[0])
        # the ODE of a Gaussian is linear: x - mean grows as sqrt(std^2 + sigma^2)
        want = (mean + (x0 - mean) * math.sqrt((std**2 + high**2) / (std**2 + low**2))) / math.sqrt(1 + high**2)
        code, error = round_trip(denoise, x0, levels)
        codes.append(float((code - want).square().mean().sqrt()))
        errors.append(float(error.square().mean().sqrt()))
    assert float(code.std()) == pytest.approx(1, abs=0.05)
    assert codes[0] / codes[1] == pytest.approx(4, rel=0.3) and codes[1] / codes[2] == pytest.approx(4, rel=0.3)
    assert errors[0] < 0.5 and max(errors[1:]) < 0.1  # grey levels


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_round_trip_of_a_shipped_checkpoint(name):
    """Real test images come back to a few grey levels, and twice the steps bring them nearer."""
    data = local_data(name)
    if data is None:
        pytest.skip(f"{name}'s test images are not on this machine")
    studio = Studio([PROJECT / "checkpoints"], device="cpu", precision="fp32")
    denoiser = studio.denoiser(studio.checkpoint(name))
    x0 = to_model(data.images[:2])
    errors = []
    denoise = lambda x, s: denoiser(x, s, None)  # noqa: E731
    for steps in (10, 20):
        code, error = round_trip(denoise, x0, I.code_levels(denoiser.schedule, steps))
        errors.append(float(error.max()))
    assert errors[1] < 5 and errors[1] < errors[0] / 3
    # an image without noise lies where few of the noisy ones do: in what never varies, such as MNIST's black pixels, its code shrinks
    assert float(code.std()) < 1.1
    levels = I.code_levels(denoiser.schedule, 20)
    noisy = x0 + float(levels[0]) * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    assert float(round_trip(denoise, noisy, levels)[0].std()) == pytest.approx(1, abs=0.1)


def test_classes_blend_from_end_to_end(studio):
    denoiser = studio.denoiser(studio.checkpoint("cifar10-random"))
    x, sigma, w = torch.randn(3, 3, 16, 16), torch.tensor(1.0), torch.tensor([0.0, 0.25, 1.0])
    with torch.inference_mode():
        first, second = (denoiser(x, sigma, torch.full((3,), k)) for k in (2, 7))
        got = I.blend(denoiser, (2, 7), w)(x, sigma)
        assert torch.allclose(got, torch.stack([first[0], 0.75 * first[1] + 0.25 * second[1], second[2]]), atol=1e-5)
        assert torch.equal(I.blend(denoiser, (-1, -1), w, 3.0)(x, sigma), denoiser(x, sigma, None))
        guided = denoiser(x, sigma, None) + 2 * (first - denoiser(x, sigma, None))
        assert torch.allclose(I.blend(denoiser, (2, 2), w, 2.0)(x, sigma), guided, atol=1e-4)


def test_the_ends_between_two_seeds_are_what_generate_makes(studio):
    settings = {"sampler": "dpmpp-2m", "evaluations": 6, "guidance": 1.5}
    request = interpolate.PathRequest("cifar10-random", "seeds", "cat", "ship", frames=5, seed=11, seed_b=4, **settings)
    end = list(interpolate.interpolate(studio, request))[-1]
    assert end.done and end.images.shape == (5, 3, 16, 16) and end.error is None
    for label, seed, image in (("cat", 11, end.images[0]), ("ship", 4, end.images[-1])):
        want = list(studio.sample(Request("cifar10-random", label, 1, seed=seed, **settings)))[-1].x[0]
        assert np.abs(want.astype(int) - image.astype(int)).max() <= 1
    assert not np.array_equal(end.images[2], end.images[0])


def test_encoded_images_are_decoded_again(studio):
    pictures = torch.randint(0, 256, (2, 1, 14, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    moments = list(interpolate.interpolate(studio, interpolate.PathRequest("mnist-random", "ode", frames=3, evaluations=11), pictures))
    assert [m.phase for m in moments] == ["encode"] * 5 + ["decode"] * 6 and moments[-1].done
    assert moments[0].images.shape == (2, 1, 14, 14) and len(moments[-1].error) == 2 and np.isfinite(moments[-1].error).all()
    noise = interpolate.PathRequest("mnist-random", "noise", frames=4, evaluations=5, t=1, seed=3, seed_b=3)
    end = list(interpolate.interpolate(studio, noise, pictures))[-1]
    assert np.abs(end.images[[0, -1]].astype(int) - pictures.numpy().astype(int)).mean() < 40  # t = 1 is next to no noise
    again = list(
        interpolate.interpolate(studio, interpolate.PathRequest("mnist-random", "noise", sampler="ddpm", frames=2, t=900), pictures)
    )[-1]
    assert again.images.shape == (2, 1, 14, 14)


def test_the_code_is_the_inverse_of_decoding():
    """decode() after encode() on the same levels, for a denoiser that is not linear."""

    def denoise(x, sigma):
        s2 = float(sigma) ** 2  # as sigma falls, what is seen is what there is
        return (x + s2 * torch.tanh(x) / 2) / (1 + s2)

    x0 = torch.randn(4, 1, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2)).clamp(-1, 1)
    levels = torch.linspace(math.log(0.002), math.log(40), 400, dtype=torch.float64).exp()
    code = last(I.encode(denoise, x0, levels))
    back = last(I.decode(denoise, code, levels))
    assert float(code.abs().max()) > 10 and torch.allclose(back, x0, atol=5e-3)


def test_settings_that_are_refused(studio):
    two = torch.zeros(2, 1, 14, 14, dtype=torch.uint8)
    for bad in (
        {"way": "car"},
        {"frames": 1},
        {"frames": 65},
        {"evaluations": 2},
        {"seed": -1},
        {"guidance": math.nan},
        {"way": "ode", "sampler": "ddpm"},
    ):
        with pytest.raises(ValueError):
            interpolate.PathRequest("mnist-random", **bad)
    for request, pictures, says in (
        ({"way": "ode"}, None, "needs two images"),
        ({"way": "seeds"}, two, "accepts no images"),
        ({"way": "noise"}, two[:1], "1 images were given; 2 are accepted"),
        ({"way": "noise"}, two[:, :, :9], "takes 1 to"),
        ({"way": "noise", "t": 1001}, two, "from 1 to 1000"),
        ({"way": "seeds", "first": "any"}, None, "one class"),
        ({"way": "seeds", "first": "eleven"}, None, "unknown class"),
    ):
        with pytest.raises(ValueError, match=says):
            list(interpolate.interpolate(studio, interpolate.PathRequest("mnist-random", **request), pictures))
    with pytest.raises(ValueError, match="2 or more"):
        I.code_levels(make_schedule("linear"), 1)


def test_the_command_interpolate(tmp_path, roots, monkeypatch, capsys):
    from PIL import Image

    real = Studio.__init__
    monkeypatch.setattr(Studio, "__init__", lambda self, *a, **kw: real(self, roots, "cpu", "fp32"))
    for k, name in enumerate("ab"):
        Image.fromarray(np.random.default_rng(k).integers(0, 256, (16, 16, 3), np.uint8)).save(tmp_path / f"{name}.png")
    command = ["interpolate", "--checkpoint", "cifar10-random", "--frames", "4", "--evaluations", "5"]
    ends = ["--way", "ode", "--images", str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    outs = [str(tmp_path / f"o.{k}") for k in ("png", "gif", "webp")]
    assert cli.main([*command, *ends, "--first", "dog", "--json", "--out", *outs]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["classes"] == [5, -1] and len(said["error"]) == 2
    assert Image.open(tmp_path / "o.png").size == (6 * 16 + 5, 16) and Image.open(tmp_path / "o.gif").n_frames == 4
    assert cli.main([*command, "--out", outs[0]]) == 0
    assert Image.open(tmp_path / "o.png").size == (4 * 16 + 3, 16)
    capsys.readouterr()
    for flags, says in (
        ([], "names no file"),
        (["--way", "ode", "--json"], "needs two images"),
        (["--sampler", "dimm", "--json"], "did you mean 'ddim'"),
    ):
        assert cli.main([*command, *flags]) == 2
        assert says in capsys.readouterr().err
