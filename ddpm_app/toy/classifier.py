"""Classifiers of points: trained on clean or on noisy points, and a training-free one that uses a denoiser."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.schedules import Schedule, add_noise, expand
from ddpm_app.networks.mlp import ToyConfig, ToyMLP
from ddpm_app.toy.shapes import ToyData, ToyDataError


class PointClassifier(nn.Module):
    """log p(class | x, sigma) (B, classes) from x (B, d) at level sigma; the toy network with an output for each class."""

    def __init__(self, config: ToyConfig, classes: int, schedule: Schedule):
        super().__init__()
        self.trunk, self.schedule = ToyMLP(config), schedule
        self.trunk.layers["out"] = nn.Linear(config.width, classes)

    def forward(self, x: Tensor, sigma) -> Tensor:
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        t = self.schedule.sigma_to_t(sigma).to(torch.float32).expand(len(x))
        weight = self.trunk.layers["out"].weight
        return self.trunk((x * expand(torch.rsqrt(1 + sigma**2), x)).to(weight.dtype), t).log_softmax(1)


def need_classes(data: ToyData) -> None:
    """Raise ToyDataError if the data has no classes."""
    if len(data.classes) < 2:
        raise ToyDataError(f"{data.name} has no classes; choose data with labels")


def train_classifier(data: ToyData, schedule: Schedule, noisy: bool, steps: int = 1000, batch: int = 256, seed: int = 0) -> PointClassifier:
    """Train on points of every noise level (noisy) or on clean points. Raises ToyDataError if the data has no classes."""
    need_classes(data)
    for k, name in enumerate(data.classes):
        if not bool((data.label == k).any()):
            raise ToyDataError(f"class {name} of {data.name} has no points")
    x, g = data.to_model(data.x), torch.Generator().manual_seed(seed * 0x9E3779B1 + 77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classifier = PointClassifier(ToyConfig(data.dim, width=128, time_width=64), len(data.classes), schedule)
    optimiser = torch.optim.AdamW(classifier.parameters(), lr=3e-3, weight_decay=0.01, fused=True)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        index = torch.randint(0, len(x), (batch,), generator=g)
        t = torch.randint(0, schedule.T, (batch,), generator=g)
        sigma = schedule.sigma[t] if noisy else torch.zeros(batch, dtype=torch.float64)
        eps = torch.randn(batch, data.dim, generator=g)
        loss = nnf.nll_loss(classifier(add_noise(x[index], sigma, eps), sigma), data.label[index])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    return classifier.eval().requires_grad_(False)


def denoising_classifier(
    denoiser: Denoiser, x: Tensor, schedule: Schedule, draws: int = 32, seed: int = 0, t: int | None = None
) -> tuple[Tensor, int]:
    """The class whose conditional denoiser predicts the noise best (Li et al. 2023): no classifier is trained.

    x: (B, d) in the network's coordinates. draws: pairs (t, eps), the same for every class, over which |eps - eps_hat|^2 is averaged.
    t: one time for all draws; None spreads them evenly over the schedule.
    Returns the class (B,) and the number of evaluations for each point. Raises ToyDataError."""
    classes = denoiser.network.config.num_classes
    if classes < 2:
        raise ToyDataError(f"the training-free classifier needs a model of two classes or more; this one has {classes or 'none'}")
    if t is not None and not 0 <= t < schedule.T:
        raise ToyDataError(f"t is {t}; accepted is 0 to {schedule.T - 1}")
    g = torch.Generator().manual_seed(seed)
    error = torch.zeros(len(x), classes, dtype=torch.float64)
    for k in range(draws):
        level = schedule.sigma[int((k + 0.5) * schedule.T / draws) if t is None else t]
        eps = torch.randn(x.shape, generator=g).to(x.dtype)
        noisy = add_noise(x, level, eps)
        for c in range(classes):
            x0 = denoiser(noisy, level, torch.full((len(x),), c))
            error[:, c] += ((x - x0) / float(level)).double().square().sum(1)  # eps_hat - eps = (x0 - x0_hat) / sigma
    return error.argmin(1), draws * classes


def decision_grid(classify, low: Tensor, high: Tensor, side: int = 60) -> Tensor:
    """The class (side, side) int64 that classify((N, 2) in data units) gives over a rectangle; the first row has the lowest y."""
    xs, ys = (torch.linspace(float(a), float(b), side) for a, b in zip(low, high))
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    return classify(torch.stack([grid_x.flatten(), grid_y.flatten()], 1)).reshape(side, side)
