"""Sampling: frames, labels, errors, and identical pixels for any batch size and from the page, the CLI and the API."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.samplers import SAMPLERS
from ddpm_app.diffusion.schedules import GRIDS, make_schedule
from ddpm_app.images.pixels import to_model, to_uint8
from ddpm_app.studio import png_settings
from ddpm_app.studio.exports import frame_picture, image_png, images_zip, request_from_settings
from ddpm_app.studio.forward import forward_process
from ddpm_app.studio.studio import MAX_BATCH, Request, Studio


def ask(**changes) -> Request:
    return Request(**{"checkpoint": "cifar10-random", "n": 3, "evaluations": 6, "label": "cat", "seed": 5, **changes})


def final(studio, request, **kwargs):
    return list(studio.sample(request, **kwargs))[-1]


def same(a, b) -> bool:
    """Equal up to the rounding of float32 sums, which may run in another order for another batch size."""
    return np.abs(a.astype(int) - b.astype(int)).max() <= 1


def test_every_step_is_a_frame_and_the_noise_level_falls(studio):
    frames = list(studio.sample(ask()))
    assert [f.i for f in frames] == list(range(7))
    assert [f.nfe for f in frames] == list(range(7))
    assert all(a.sigma > b.sigma and a.t > b.t and a.log_snr < b.log_snr for a, b in zip(frames, frames[1:]))
    assert frames[-1].sigma == 0 and frames[-1].t == 0 and math.isinf(frames[-1].log_snr) and frames[-1].done
    assert frames[0].x.shape == (3, 3, 16, 16) and frames[0].x.dtype == np.uint8


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_is_the_same_alone_and_in_a_batch(studio, sampler):
    request = ask(n=5, label="any", sampler=sampler, guidance=2.0, evaluations=7, eta=0.5, churn=10)
    batch = final(studio, request)
    alone = final(studio, dataclasses.replace(request, n=1, seed=request.seed + 3))
    assert alone.labels[0] == batch.labels[3]
    assert same(batch.x[3], alone.x[0])


def test_every_setting_changes_the_image(studio):
    base = final(studio, ask()).x
    for change in (
        {"seed": 6},
        {"label": "ship"},
        {"guidance": 3.0},
        {"sampler": "ddpm"},
        {"evaluations": 9},
        {"grid": "karras"},
        {"rescale": 1.0},
    ):
        assert (final(studio, ask(**change)).x != base).any(), change
    assert (final(studio, ask()).x == base).all()


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_evaluations_equal_the_calls_of_the_network(studio, sampler, monkeypatch):
    calls = []
    real = Denoiser.__call__
    monkeypatch.setattr(Denoiser, "__call__", lambda self, x, *rest: calls.append(len(x)) or real(self, x, *rest))
    request = ask(sampler=sampler, evaluations=8, n=2, guidance=2.0)
    frame = final(studio, request)
    assert frame.nfe == frame.evaluations == request.true_evaluations == len(calls) <= 8
    assert set(calls) == {4}  # with guidance each is a doubled batch: two passes, one call
    assert request.true_evaluations == (7 if sampler == "heun" else 8)


def test_labels_of_a_request(studio):
    classes = ("a", "b", "c")
    assert studio.labels(ask(label="all", n=7), classes).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert studio.labels(ask(label="b", n=2), classes).tolist() == studio.labels(ask(label="1", n=2), classes).tolist() == [1, 1]
    assert studio.labels(ask(label="none", n=2), classes).tolist() == [-1, -1]
    drawn = studio.labels(ask(label="any", n=3000, seed=0), classes)
    assert np.bincount(drawn, minlength=3).min() > 850  # uniform: 1000 each, 5.8 standard deviations below
    assert studio.labels(ask(label="any", n=1, seed=17), classes)[0] == drawn[17]
    with pytest.raises(ValueError, match="did you mean 'b'"):
        studio.labels(ask(label="bb"), classes)
    with pytest.raises(ValueError, match="no classes"):
        studio.labels(ask(label="b"), ())


def test_images_in_batches_equal_single_images(studio):
    seen = []
    images, labels = studio.images(ask(n=70, label="all", evaluations=1), lambda k, n: seen.append((k, n)))
    assert images.shape == (70, 16, 16, 3) and labels.tolist() == [i % 10 for i in range(70)] and seen == [(64, 70), (70, 70)]
    alone, _ = studio.images(ask(n=1, label=str(66 % 10), evaluations=1, seed=5 + 66))
    assert same(alone[0], images[66])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"evaluations": 0}, "from 1 to 1000"),
        ({"evaluations": 10**9}, "from 1 to 1000"),
        ({"n": -4}, "n is -4"),
        ({"n": 10**9}, "n is 1000000000"),
        ({"seed": -1}, "seed is -1"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"guidance": "7"}, "guidance is '7'"),
        ({"sampler": "dpmp-2m"}, "did you mean 'dpmpp-2m'"),
        ({"grid": "karass"}, "did you mean 'karras'"),
        ({"eta": 2}, "eta is 2"),
        ({"interval_low": 3.0, "interval_high": 2.0}, "interval"),
    ],
)
def test_bad_values_are_refused_with_the_accepted_ones(change, message):
    with pytest.raises(ValueError, match=message):
        ask(**change)


def test_unknown_checkpoints_and_too_many_images_are_refused(studio):
    with pytest.raises(ValueError, match="did you mean 'cifar10-random'"):
        next(studio.sample(ask(checkpoint="cifar10-randon")))
    with pytest.raises(ValueError, match=f"at most {MAX_BATCH}"):
        next(studio.sample(ask(n=MAX_BATCH + 1)))
    with pytest.raises(ValueError, match="memory limit"):
        studio.images(ask(n=10**6, checkpoint="huge"))


@pytest.fixture(autouse=True)
def huge(roots):
    """A model of 64x64 pixels, so that a million images pass the memory limit."""
    from tests.conftest import make_checkpoint

    if not (roots[0] / "huge").exists():
        make_checkpoint(roots[0] / "huge", size=64)


def test_a_studio_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(ValueError, match="there is no checkpoint in"):
        Studio([tmp_path]).checkpoint("x")


def test_an_unconditional_model_has_no_labels(studio):
    frame = final(studio, ask(checkpoint="plain-random", label="any"))
    assert frame.labels.tolist() == [-1, -1, -1]


def test_png_settings_reproduce_the_image(studio):
    request = ask(n=4, label="any", guidance=2.5, sampler="heun", evaluations=9, churn=20.0, interval_low=0.1, interval_high=5.0)
    frame = final(studio, request)
    settings = png_settings.read(image_png(frame.x[2], request, 2, int(frame.labels[2])))
    again = request_from_settings(settings, studio.checkpoint("cifar10-random").config.classes)
    assert again.seed == request.seed + 2 and again.n == 1
    assert same(final(studio, again).x[0], frame.x[2])


def test_python_of_a_request_gives_the_same_pixels(studio, monkeypatch, roots):
    request = ask(n=2, sampler="unipc", guidance=1.7)
    monkeypatch.setattr("ddpm_app.studio.Studio", lambda: studio)
    scope: dict = {}
    exec(request.as_python(), scope)
    assert (scope["images"].transpose(0, 3, 1, 2) == final(studio, request).x).all()


def test_zip_contains_every_png():
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(images_zip([b"a", b"bc"]))) as z:
        assert [z.read(n) for n in z.namelist()] == [b"a", b"bc"]


# -- the forward process and SDEdit -------------------------------------------------------------------------------------


def test_forward_process_equals_the_closed_form():
    picture = np.random.default_rng(0).integers(0, 256, (3, 8, 8), np.uint8)
    schedule = make_schedule("linear")
    x_t, noise = forward_process(picture, schedule, [0, 1, 500, 1000], seed=3)
    assert (x_t[0] == picture).all()
    bar = float(np.prod(1 - np.linspace(1e-4, 0.02, 1000)[:500]))
    eps = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(3))
    assert (noise == eps.numpy()).all()
    assert (x_t[2] == to_uint8(math.sqrt(bar) * to_model(torch.from_numpy(picture)) + math.sqrt(1 - bar) * eps).numpy()).all()
    for bad in (-1, 1001):
        with pytest.raises(ValueError, match="from 0 to 1000"):
            forward_process(picture, schedule, [bad])
    with pytest.raises(ValueError, match="seed is -1"):
        forward_process(picture, schedule, [0], seed=-1)


def test_sdedit_starts_from_x_t_of_the_forward_process(studio):
    picture = np.random.default_rng(1).integers(0, 256, (3, 16, 16), np.uint8)
    schedule = make_schedule(**studio.checkpoint("cifar10-random").config.schedule)
    start = next(studio.sample(ask(n=1), picture=picture, start=float(schedule.sigma[399])))
    assert start.t == pytest.approx(400)
    x_t, noise = forward_process(picture, schedule, [400], seed=5)
    assert (start.x[0] == x_t[0]).all() and noise.shape == (3, 16, 16)


def test_sdedit_from_little_noise_keeps_the_image(studio):
    picture = np.random.default_rng(1).integers(0, 256, (3, 16, 16), np.uint8)
    frame = final(studio, ask(n=1), picture=picture, start=0.01)
    assert np.abs(frame.x[0].astype(int) - picture.astype(int)).mean() < 3
    with pytest.raises(ValueError, match="takes"):
        next(studio.sample(ask(n=1), picture=picture[:, :8], start=0.5))


def test_compare_advances_both_requests_together_to_the_end(studio):
    pairs = list(studio.compare(ask(sampler="heun", evaluations=20), ask(sampler="ddim", evaluations=20)))
    assert all(f.done for f in pairs[-1])
    assert all(abs(a.i / a.n - b.i / b.n) <= 1 / a.n + 1e-9 for a, b in pairs)
    assert (pairs[-1][1].x == final(studio, ask(sampler="ddim", evaluations=20)).x).all()
    w, h = frame_picture(pairs[-1], 2).size
    assert w == 4 * (2 * 16 + 1) + 3 * 4 and h == 2 * 16 + 1


def test_closing_the_iterator_stops_the_sampling(studio, monkeypatch):
    calls = []
    real = Denoiser.__call__
    monkeypatch.setattr(Denoiser, "__call__", lambda self, *a: calls.append(1) or real(self, *a))
    run = studio.sample(ask(evaluations=50))
    for _ in range(3):
        next(run)
    run.close()
    assert len(calls) == 2 and list(run) == []


def test_sampling_completes_on_every_grid(studio):
    for grid in GRIDS:
        assert final(studio, ask(grid=grid, n=1)).done


# -- models tuned to few evaluations -------------------------------------------------------------------------------------


def test_a_tuned_model_never_runs_a_second_pass(tuned, monkeypatch):
    calls = []
    real = Denoiser.__call__
    monkeypatch.setattr(Denoiser, "__call__", lambda self, x, *rest: calls.append(len(x)) or real(self, x, *rest))
    for guidance in (1.0, 1.5, 7.0):
        final(tuned, Request("mnist-tuned", "3", 4, guidance, "consistency", 2))
    assert calls == [4] * 6
    plain = final(tuned, Request("mnist-random", "3", 4, 1.0, "consistency", 2)).x  # the same weights
    assert (final(tuned, Request("mnist-tuned", "3", 4, 7.0, "consistency", 2)).x == plain).all()


def test_a_request_takes_the_models_defaults(tuned):
    request = tuned.request("mnist-tuned", n=3)
    assert (request.sampler, request.evaluations, request.guidance, request.n) == ("consistency", 2, 2.5, 3)
    assert tuned.request("mnist-tuned", evaluations=4, guidance=9.0) == dataclasses.replace(request, evaluations=4, n=16)
    assert tuned.request("cifar10-random", n=3) == Request("cifar10-random", n=3)
    assert tuned.request().checkpoint == "cifar10-random"


def test_a_tuned_models_request_can_be_repeated_from_its_command_and_its_png(tuned):
    request = tuned.request("mnist-tuned", n=1, label="3", seed=4)
    flags = request.as_command().split()
    assert flags[flags.index("--sampler") + 1] == "consistency" and flags[flags.index("--evaluations") + 1] == "2"
    png = image_png(final(tuned, request).x[0], request, 0, 3)
    again = request_from_settings(png_settings.read(png), tuned.checkpoint("mnist-tuned").config.classes)
    assert (final(tuned, again).x == final(tuned, request).x).all() and again.guidance == 2.5


def test_uses_that_need_a_denoiser_refuse_a_tuned_model(tuned):
    from ddpm_app.studio.compression import CodeRequest, code
    from ddpm_app.studio.interpolate import PathRequest, interpolate

    pictures = torch.zeros(2, 1, 14, 14, dtype=torch.uint8)
    with pytest.raises(ValueError, match="tuned to few evaluations"):
        list(code(tuned, CodeRequest("mnist-tuned", label="3"), pictures))
    with pytest.raises(ValueError, match="tuned to few evaluations"):
        list(interpolate(tuned, PathRequest("mnist-tuned", first="3", second="4", way="ode"), pictures))
