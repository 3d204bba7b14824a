"""What a toy's card says: its numbers, each with its protocol, and the text around them."""

from __future__ import annotations

import torch

from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import conditioned
from ddpm_app.diffusion.schedules import sigma_grid
from ddpm_app.toy import metrics
from ddpm_app.toy.classifier import denoising_classifier
from ddpm_app.toy.shapes import ToyData, split
from ddpm_app.toy.sweeps import Scale, data_to_data_emd, draw
from ddpm_app.toy.training import ToyTrainConfig

TEST_POINTS = 2000


def measure(denoiser: Denoiser, data: ToyData) -> list[dict]:
    """[{"name", "value", "error", "n", "protocol"}] in the data's units, on points that the network was not trained on.

    A class-conditional network is measured with each test point's class."""
    _, test = split(data, TEST_POINTS)
    x, label = data.to_model(test.x), test.label if denoiser.network.config.num_classes else None
    denoise, measured = conditioned(denoiser, label), []

    def add(name: str, value: float, protocol: str, error: float | None = None) -> None:
        measured.append({"name": name, "value": value, "error": error, "n": len(x), "protocol": protocol})

    samples = data.from_model(draw(denoise, sigma_grid(denoiser.schedule, 100), len(x), data.dim, 0, "ddim"))
    protocol = "DDIM, 100 evaluations, uniform t, seed 0" + ("; the test points' own classes" if label is not None else "")
    add("EMD", metrics.emd(samples, test.x), protocol)
    reference = data_to_data_emd(data, test, Scale(points=TEST_POINTS))
    if reference is not None:
        add("EMD, data against data", reference, "another draw of the data")
    with torch.no_grad():
        bound = metrics.shift_units(metrics.bound(denoise, x, denoiser.schedule), data.dim, data.scale)
    ode = metrics.shift_units(metrics.nll_ode(denoise, x, denoiser.schedule), data.dim, data.scale)
    add("NLL, ODE", ode.mean, "nats a point, exact divergence, Runge-Kutta in 64 steps of ln sigma", ode.error)
    add("NLL, bound", bound.mean, "nats a point, Ho et al. eq. 5, 32 stratified terms a point", bound.error)
    if data.truth is not None:
        truth = metrics.nats(-data.truth.log_prob(test.x, 0.0, label))
        add("NLL, true density", truth.mean, "nats a point" + (", given the class" if label is not None else ""), truth.error)
    if label is not None:
        with torch.no_grad():
            predicted, _ = denoising_classifier(denoiser, x, denoiser.schedule, 64)
        accuracy = float((predicted == label).double().mean())
        add("accuracy, training-free classifier", accuracy, "64 draws of (t, eps), t over the schedule")
        if data.truth is not None:
            bayes = data.truth.class_posterior(test.x).argmax(1) == label
            add("accuracy, Bayes", float(bayes.double().mean()), "the true density's posterior")
    return measured


def card(name: str, data: ToyData, config: ToyTrainConfig, measured: list[dict], seconds: float, command: str) -> str:
    """The README.md of a toy. seconds: of training. command: what a person types to train it again."""
    c, threads = config, torch.get_num_threads()
    kind = f"class-conditional ({', '.join(data.classes)})" if c.label_dropout < 1 and data.classes else "unconditional"
    lines = [
        "---\nlicense: mit\nlibrary_name: ddpm-studio\n---",
        f"# {name}",
        "",
        f"A {kind} denoising diffusion model of the set `{data.name}`, {len(data)} points of {data.dim} numbers; for the 2-D lab.",
        f"An MLP of {c.depth} hidden layers of {c.width}; predicts {c.prediction_type}; "
        f"{c.schedule} schedule, T = {c.T}; {c.steps} steps of {c.batch}",
        f"points, AdamW at {c.lr:g} falling to 0, EMA over {c.ema:g} of the run, seed {c.seed}: {seconds:.0f} s on "
        f"{threads} CPU thread{'s' * (threads > 1)}.",
        "",
        f"    {command}",
        "",
        "| measure | value | protocol |",
        "|---|---|---|",
    ]
    for m in measured:
        error = f" ± {m['error']:.3f}" if m["error"] else ""
        lines.append(f"| {m['name']} | {m['value']:.4f}{error} | n = {m['n']}; {m['protocol']} |")
    lines += ["", "All in the data's own units, on points that were not trained on. Licence: as the program's."]
    return "\n".join(lines) + "\n"
