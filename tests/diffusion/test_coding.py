"""Rate and distortion against a Gaussian, where both are known in closed form, and against the variational bound."""

import json
import math

import numpy as np
import pytest
import torch

from ddpm_app.cli import main as cli
from ddpm_app.diffusion import coding as C
from ddpm_app.diffusion import likelihood as L
from ddpm_app.diffusion.schedules import make_schedule
from ddpm_app.studio import compression
from ddpm_app.studio.studio import Studio
from tests.diffusion.test_likelihood import gaussian_denoiser, gaussian_images

MEAN, STD = 0.1, 0.25


def coded(images, schedule, denoise=None, **kwargs):
    return list(C.progressive(denoise or gaussian_denoiser(MEAN, STD), images, schedule, **kwargs))


@pytest.fixture(scope="module")
def fine():
    """A code of 400 Gaussian images in 1,000 equal steps of log-SNR, every one visited."""
    images, entropy = gaussian_images(400)
    schedule = C.fine_levels(make_schedule("linear"), 1000)
    return C.curve([coded(images, schedule, states=999, variance="small")]), schedule, entropy


def test_distortion_is_the_posterior_variance(fine):
    """E |x0 - E[x0 | x_t]|^2 = s^2 sigma^2 / (s^2 + sigma^2) for x0 ~ N(m, s^2)."""
    rates, schedule, _ = fine
    sigma = schedule.sigma.flip(0).numpy()
    want = 127.5 * np.sqrt(STD**2 * sigma**2 / (STD**2 + sigma**2))
    assert rates.t[:-1].tolist() == list(range(1000, 0, -1)) and np.allclose(rates.sigma[:-1], sigma)
    assert np.abs(rates.rmse[:-1] / want - 1).max() < 0.06  # 6,400 numbers a level: 0.9 % is one standard error
    assert abs((rates.rmse[:-1] / want - 1).mean()) < 0.003 and rates.rmse[-1] == 0


def test_rate_is_the_mutual_information(fine):
    """In small steps E[bits up to x_t] nears I(x0; x_t) = log2(1 + s^2 / sigma^2) / 2 a dimension: half the integral of the posterior
    variance over SNR (Guo, Shamai and Verdu 2005)."""
    rates, schedule, _ = fine
    want = 0.5 * np.log2(1 + STD**2 / schedule.sigma.flip(0).numpy() ** 2)
    assert np.abs(rates.rate[:-1] - want).max() < 0.02 * want.max() and want.max() > 4
    middle = slice(300, 1000)
    assert np.abs(rates.rate[:-1][middle] / want[middle] - 1).max() < 0.05


def test_the_code_is_as_short_as_shannon_allows(fine):
    """The rate-distortion function of a Gaussian, D = s^2 2^(-2 R): no code beats it, this one reaches it."""
    rates, _, _ = fine
    limit = 127.5 * STD * 2.0 ** -rates.rate[:-1]
    assert np.abs(np.log2(rates.rmse[:-1] / limit)).max() < 0.12  # bits a dimension


def test_the_whole_code_is_the_entropy(fine):
    rates, _, entropy = fine
    assert rates.total == pytest.approx(entropy, rel=0.01) and rates.total > entropy - 3 * rates.standard_error
    assert rates.total == pytest.approx(rates.L_T + rates.L_mid + rates.L_0) and rates.rate[-1] == pytest.approx(rates.total)
    assert (np.diff(rates.rate) >= 0).all()


@pytest.mark.parametrize("variance", ["large", "small"])
def test_every_step_costs_what_its_gaussians_cost(variance):
    """With the exact denoiser E|error|^2 is the posterior variance, which gives every term in closed form."""
    images, _ = gaussian_images(1000, shape=(1, 5, 5))
    schedule = make_schedule("linear", T=20, beta_start=1e-3, beta_end=0.6)
    rates = C.curve([coded(images, schedule, states=19, variance=variance)])
    sigma = schedule.sigma.numpy()
    mse = STD**2 * sigma**2 / (STD**2 + sigma**2)
    s, r, bar = sigma[1:], sigma[:-1], schedule.alpha_bar.numpy()
    want = 0.5 * (1 / r**2 - 1 / s**2) * mse[1:]
    if variance == "large":
        ratio = (1 - bar[:-1]) / (1 - bar[1:])
        want = ratio * want + 0.5 * (ratio - 1 - np.log(ratio))
    assert rates.cost[:19] == pytest.approx(want[::-1] / math.log(2), rel=0.05)
    assert np.diff(rates.rate)[:19] == pytest.approx(rates.cost[:19])


def test_sum_of_rates_is_the_bound_to_the_last_digit():
    """A denoiser that does not look at x makes both deterministic: then nothing but the arithmetic is compared."""
    images, _ = gaussian_images(6, shape=(3, 4, 4))
    schedule = make_schedule("cosine", T=50)

    def constant(x, sigma):
        return torch.full_like(x, 0.07)

    for variance in ("large", "small"):
        rates = C.curve([coded(images, schedule, constant, states=49, variance=variance)])
        bound = L.variational_bound(constant, images, schedule, draws=49, variance=variance)
        assert rates.total == pytest.approx(bound.total, rel=1e-12) and rates.standard_error == pytest.approx(bound.standard_error)
        for part in ("L_T", "L_mid", "L_0"):
            assert getattr(rates, part) == pytest.approx(getattr(bound, part), rel=1e-10)
        assert rates.cost[:49] == pytest.approx(bound.L_t[::-1])


def test_sum_of_rates_is_the_bound_of_a_network(studio):
    """The same model and images, other noise: within the errors of both, which are those of the noise alone here."""
    checkpoint = studio.checkpoint("cifar10-random")
    one = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    images, label = one.expand(24, -1, -1, -1).contiguous(), torch.full((24,), 4)
    request = compression.CodeRequest("cifar10-random", "given", states=20, seed=5)
    rates = C.curve([list(compression.code(studio, request, images, label))])
    denoiser = studio.denoiser(checkpoint)
    with torch.inference_mode():
        bound = L.variational_bound(lambda x, s: denoiser(x, s, label[: len(x)]), images, denoiser.schedule, draws=60)
    assert rates.L_T == pytest.approx(bound.L_T, rel=1e-9)
    assert rates.L_0 == pytest.approx(bound.L_0, rel=0.05)
    assert rates.L_mid == pytest.approx(bound.L_mid, rel=0.15)  # the 20 times are one draw


def test_few_states_are_unbiased():
    """Over many draws of the times, the mean of short codes is the long one's."""
    images, _ = gaussian_images(40)
    schedule = make_schedule("linear", T=200)
    full = C.curve([coded(images, schedule, states=199)]).total
    short = [C.curve([coded(images, schedule, states=12, seed=1000 * k)]).total for k in range(60)]
    assert np.mean(short) == pytest.approx(full, abs=4 * np.std(short) / 60**0.5 + 0.01)


def test_times_divide_the_chain_into_stretches():
    for T, states in ((1000, 60), (1000, 999), (1000, 998), (10, 2), (10, 9), (2, 5), (3, 2)):
        plan = C.times(T, states, seed=1)
        assert plan[0][1] == T and all(low <= t < high for low, t, high in plan)
        assert [low for low, _, _ in plan[:-1]] == [high for _, _, high in plan[1:]] and (plan[-1][0], plan[0][2]) == (2, T + 1)
        assert len(plan) == min(states, T - 1)


def test_the_path_is_the_forward_process():
    """x_t given x_s of one path has the posterior's correlation sigma_t / sigma_s and each level its own deviation."""
    images = torch.full((4000, 1, 1, 1), 128, dtype=torch.uint8)
    schedule, seen = make_schedule("linear", T=30), []

    def spy(x, sigma):
        seen.append((float(sigma[0]), x.flatten()))
        return torch.zeros_like(x)

    coded(images, schedule, spy, states=29)
    sigmas = [s for s, _ in seen]
    assert sigmas == pytest.approx(schedule.sigma.flip(0).tolist())
    noise = torch.stack([x - float(images[0] / 127.5 - 1) for _, x in seen]).numpy()
    assert noise.std(1) == pytest.approx(np.array(sigmas), rel=0.05)
    for a, b in ((0, 5), (10, 20), (3, 29)):
        assert np.corrcoef(noise[a], noise[b])[0, 1] == pytest.approx(sigmas[b] / sigmas[a], abs=0.06)


def test_one_image_is_the_same_in_any_batch():
    images, _ = gaussian_images(5)
    schedule = make_schedule("cosine", T=100)
    together = coded(images, schedule, states=9, seed=20)
    alone = coded(images[3:4], schedule, states=9, seed=23, times_seed=20, batch=7)
    for a, b in zip(together, alone):
        assert a.t == b.t and torch.equal(a.x[3:4], b.x) and float(a.bits[3]) == pytest.approx(float(b.bits[0]), rel=1e-6)


def test_the_last_state_is_the_exact_image():
    images, _ = gaussian_images(2, shape=(3, 4, 4))
    states = coded(images, make_schedule("linear"), states=10)
    assert states[-1].t == 0 and torch.equal(states[-1].x0, images) and states[-2].t == 1
    assert all((after.bits >= before.bits).all() for before, after in zip(states, states[1:]))


def test_fine_levels_leave_the_variance_no_part():
    images, _ = gaussian_images(50)
    schedule = make_schedule("cosine", T=200)
    totals = []
    for levels in (schedule, C.fine_levels(schedule, 2000)):
        assert float(levels.sigma[0]) == float(schedule.sigma[0])  # the decoder is the same
        totals.append([C.curve([coded(images, levels, states=100, variance=v)]).total for v in ("large", "small")])
    coarse, fine = totals
    assert abs(fine[0] - fine[1]) < 0.03 and abs(coarse[0] - coarse[1]) > 0.3


def test_arguments_that_are_refused(studio):
    images, _ = gaussian_images(2)
    with pytest.raises(ValueError, match="2 or more"):
        coded(images, make_schedule("linear"), states=1)
    with pytest.raises(ValueError, match="uint8"):
        coded(images.float(), make_schedule("linear"))
    with pytest.raises(ValueError, match="same times"):
        C.curve([coded(images, make_schedule("linear"), states=5, seed=s) for s in (0, 1)])
    for bad in ({"variance": "huge"}, {"levels": "mine"}, {"states": 1}, {"states": True}, {"seed": -1}):
        with pytest.raises(ValueError):
            compression.CodeRequest(**bad)
    with pytest.raises(ValueError, match="takes 1 to"):
        list(compression.code(studio, compression.CodeRequest("mnist-random"), images))
    with pytest.raises(ValueError, match="classes do not fit"):
        list(
            compression.code(
                studio, compression.CodeRequest("mnist-random", "given"), torch.zeros(1, 1, 14, 14, dtype=torch.uint8), torch.tensor([10])
            )
        )


def test_flow_of_one_image_has_an_error_bar(studio):
    image = torch.randint(0, 256, (1, 1, 14, 14), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    request = compression.CodeRequest("mnist-random", "3")
    shares, steps = [], compression.flow(studio, request, image, None, draws=4, steps=6)
    while True:
        try:
            shares.append(next(steps))
        except StopIteration as end:
            rates = end.value
            break
    assert shares == pytest.approx([k / 6 for k in range(1, 7)]) and rates.n == 4 and rates.standard_error > 0
    assert rates.evaluations == 13 and math.isfinite(rates.bits)


def test_the_command_code(tmp_path, roots, monkeypatch, capsys):
    from PIL import Image

    real = Studio.__init__
    monkeypatch.setattr(Studio, "__init__", lambda self, *a, **kw: real(self, roots, "cpu", "fp32"))
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / "p.png")
    command = [
        "code",
        "--checkpoint",
        "cifar10-random",
        "--image",
        str(tmp_path / "p.png"),
        "--states",
        "8",
        "--label",
        "dog",
        "--flow",
        "2",
        "--steps",
        "3",
    ]
    outs = [str(tmp_path / f"o.{k}") for k in ("json", "png", "webp")]
    assert cli.main([*command, "--json", "--out", *outs]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said == json.loads((tmp_path / "o.json").read_text())
    assert (
        said["curve"]["rate"][-1] == pytest.approx(said["bits_per_dim"]["total"]) and said["flow"]["draws"] == 2 and said["class"] == "dog"
    )
    assert Image.open(tmp_path / "o.png").size == (10 * 16 + 9, 16) and Image.open(tmp_path / "o.webp").n_frames == 10
    for flags, says in (
        (["--n", "3"], "--image is one image"),
        (["--out", "x.bmp"], ".json"),
        (["--states", "1"], "2 to"),
        (["--label", "dogg"], "dog"),
    ):
        assert cli.main([*command, *flags]) == 2
        assert says in capsys.readouterr().err
