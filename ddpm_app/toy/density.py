"""Diffusion where the truth is known: a small network with the U-Net's call signature, and the exact denoiser of a mixture.

Everything else (Denoiser, cfg, samplers, schedules) is the image code, unchanged, on x of shape (B, d).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

MAX_DIM = 64


@dataclass(frozen=True)
class ToyConfig:
    """dim: d of the points. width, depth: of the hidden layers. time_dim: numbers in the sinusoidal embedding of t, time_width:
    width of its own small MLP. num_classes: 0 for an unconditional network."""

    dim: int = 2
    width: int = 256
    depth: int = 2
    time_dim: int = 32
    time_width: int = 128
    num_classes: int = 0

    def __post_init__(self):
        ok = 1 <= self.dim <= MAX_DIM and 8 <= self.width <= 2048 and 1 <= self.depth <= 8 and 0 <= self.num_classes <= 1000
        if not ok or self.time_dim % 2 or not 2 <= self.time_dim <= 512 or not 8 <= self.time_width <= 2048:
            raise ValueError(f"not a toy network this program can build (dim 1..64, width 8..2048, depth 1..8): {self}")

    def layers(self) -> dict[str, tuple[int, int, bool]]:
        """name -> (in, out, bias) of every matrix, in the order they are applied."""
        shapes = {"time0": (self.time_dim, self.time_width, True), "time1": (self.time_width, self.time_width, True)}
        shapes |= {"point": (self.dim, self.width, True), "level": (self.time_width, self.width, False)}
        shapes |= {f"hidden{k}": (self.width, self.width, True) for k in range(1, self.depth)}
        return shapes | {"out": (self.width, self.dim, True)}


def _mlp(config: ToyConfig, linear, classes, x: Tensor, t: Tensor) -> Tensor:
    """The network over any leading axes: linear(name, h) applies a matrix, classes is a class embedding to add or None.

    [x, embedding] times one matrix is written as the sum of two products: a level that the whole batch shares is embedded once."""
    half = config.time_dim // 2
    frequency = torch.exp(torch.arange(half, dtype=t.dtype, device=t.device) * (-math.log(10_000) / half))
    angle = t[..., None] * frequency
    h = nnf.silu(linear("time0", torch.cat([angle.cos(), angle.sin()], -1)))
    h = linear("time1", h)
    h = h if classes is None else h + classes
    h = nnf.silu(linear("point", x) + linear("level", nnf.silu(h)))
    for k in range(1, config.depth):
        h = nnf.silu(linear(f"hidden{k}", h))
    return linear("out", h)


def _shared(t: Tensor) -> Tensor:
    """(1,) where t is one number expanded over the batch, else t."""
    return t[:1] if t.ndim and len(t) and t.stride(0) == 0 else t


class ToyMLP(nn.Module):
    """F(x (B, d), t (B,), label (B,) int64 or None) -> (B, d), as the U-Net is for images."""

    def __init__(self, config: ToyConfig):
        super().__init__()
        self.config = config
        self.layers = nn.ModuleDict({name: nn.Linear(i, o, bias=b) for name, (i, o, b) in config.layers().items()})
        self.classes = nn.Embedding(config.num_classes + 1, config.time_width) if config.num_classes else None

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        classes = None
        if self.classes is not None:
            null = torch.full((1,), self.config.num_classes, device=x.device)
            classes = self.classes(null if label is None else label)
        t = _shared(t).to(self.layers["out"].weight.dtype)
        return _mlp(self.config, lambda name, h: self.layers[name](h), classes, x, t)


class ToyStack(nn.Module):
    """M networks of one shape as one: their weights lie stacked, (M, in, out), and a batch holds B rows for each in turn.

    F(x (M B, d), t (M B,), label (M B,) or None) -> (M B, d). offset: (M,) int64 subtracted from t, for networks that were given
    a stretch each of one long list of levels."""

    def __init__(self, networks: Sequence[ToyMLP], offset: Tensor | None = None):
        super().__init__()
        self.config, self.size = networks[0].config, len(networks)
        if any(n.config != self.config for n in networks):
            raise ValueError("networks are stacked only when their shapes agree")
        layers = [n.layers for n in networks]
        self.weight = nn.ParameterDict(
            {k: nn.Parameter(torch.stack([m[k].weight.detach().T for m in layers]).contiguous()) for k in self.config.layers()}
        )
        biased = [k for k, (_, _, bias) in self.config.layers().items() if bias]
        self.bias = nn.ParameterDict({k: nn.Parameter(torch.stack([m[k].bias.detach()[None] for m in layers])) for k in biased})
        self.classes = nn.Parameter(torch.cat([n.classes.weight.detach() for n in networks])) if self.config.num_classes else None
        self.register_buffer("offset", torch.zeros(self.size, dtype=torch.int64) if offset is None else offset, persistent=False)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        m, n = self.size, self.config.num_classes
        t = _shared(t)
        t = t.reshape(1, 1).expand(m, 1) if len(t) == 1 and len(x) > 1 else t.reshape(m, -1)
        classes = None
        if n:
            label = torch.full((m, 1), n, device=x.device) if label is None else label.reshape(m, -1)
            classes = nnf.embedding(label + (n + 1) * torch.arange(m, device=x.device)[:, None], self.classes)
        t = (t - self.offset[:, None]).to(self.weight["out"].dtype)
        return _mlp(self.config, self._linear, classes, x.reshape(m, -1, self.config.dim), t).reshape(x.shape)

    def _linear(self, name: str, h: Tensor) -> Tensor:
        if name in self.bias:
            return torch.baddbmm(self.bias[name], h, self.weight[name])
        return torch.bmm(h, self.weight[name])

    def unstack(self, values: dict[str, Tensor] | None = None) -> list[ToyMLP]:
        """The M networks; values: other tensors under this module's parameter names, e.g. their running averages."""
        values = values or {k: p.detach() for k, p in self.named_parameters()}
        networks = []
        for i in range(self.size):
            state = {f"layers.{k}.weight": values[f"weight.{k}"][i].T for k in self.config.layers()}
            state |= {f"layers.{k}.bias": values[f"bias.{k}"][i, 0] for k in self.bias}
            if self.classes is not None:
                state["classes.weight"] = values["classes"].reshape(self.size, -1, self.config.time_width)[i]
            network = ToyMLP(self.config)
            network.load_state_dict(state)
            networks.append(network)
        return networks


@dataclass(frozen=True)
class Mixture:
    """A mixture of round Gaussians, float64: weights (K,), means (K, d), sds (K,), labels (K,) int64 the class of each component.

    sds of zero make it a set of points: its density at sigma = 0 is then none, at sigma > 0 it is as exact as any other's."""

    weights: Tensor
    means: Tensor
    sds: Tensor
    labels: Tensor

    @staticmethod
    def of(means: Tensor, sds: float | Tensor, labels: Tensor | None = None, weights: Tensor | None = None) -> Mixture:
        """Equal weights, one class and a common sd unless told otherwise; weights are normalised."""
        means = torch.as_tensor(means, dtype=torch.float64)
        k = len(means)
        weights = torch.ones(k) if weights is None else torch.as_tensor(weights)
        labels = torch.zeros(k, dtype=torch.int64) if labels is None else torch.as_tensor(labels, dtype=torch.int64)
        sds = torch.as_tensor(sds, dtype=torch.float64).expand(k)
        if not bool((weights >= 0).all()) or not float(weights.sum()) > 0 or not bool((sds >= 0).all()):
            raise ValueError("a mixture needs weights of 0 or more, not all 0, and standard deviations of 0 or more")
        return Mixture(weights.double() / weights.double().sum(), means, sds, labels)

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    @property
    def num_classes(self) -> int:
        return int(self.labels.max()) + 1

    def mean(self) -> Tensor:
        return self.weights @ self.means

    def variance(self) -> float:
        """Mean of the coordinates' variances."""
        spread = (self.means - self.mean()).square().mean(1) + self.sds**2
        return float(self.weights @ spread)

    def moved(self, center: Tensor, scale: float) -> Mixture:
        """The mixture of (x - center) / scale."""
        return Mixture(self.weights, (self.means - center) / scale, self.sds / scale, self.labels)

    def of_class(self, label: int) -> Mixture:
        keep = self.labels == label
        return Mixture.of(self.means[keep], self.sds[keep], None, self.weights[keep])

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(n, d) float64 points and their classes (n,)."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.dim, generator=generator, dtype=torch.float64)
        return self.means[k] + self.sds[k, None] * noise, self.labels[k]

    def _logits(self, x: Tensor, sigma, label: Tensor | None) -> tuple[Tensor, Tensor]:
        """ln w_k N(x; mu_k, (sd_k^2 + sigma^2) I), (B, K), and the variances (B or 1, K). label: the null class keeps all."""
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        var = self.sds**2 + sigma.reshape(-1, 1) ** 2
        x = x.double()
        square = (x.square().sum(1, keepdim=True) - 2 * x @ self.means.T + self.means.square().sum(1)).clamp(min=0)
        logits = self.weights.log() - square / (2 * var) - 0.5 * self.dim * (2 * math.pi * var).log()
        if label is not None:
            other = (label[:, None] != self.labels) & (label[:, None] != self.num_classes)
            logits = logits.masked_fill(other, -math.inf)
        return logits, var

    def log_prob(self, x: Tensor, sigma=0.0, label: Tensor | None = None) -> Tensor:
        """ln p_sigma(x), (B,) float64, of the mixture blurred by sigma; with a label, that of its class alone."""
        logits, _ = self._logits(x, sigma, label)
        log_p = logits.logsumexp(1)
        if label is None:
            return log_p
        share = torch.zeros(self.num_classes + 1, dtype=torch.float64).index_add_(0, self.labels, self.weights)
        share[-1] = 1.0
        return log_p - share[label].log()

    def class_posterior(self, x: Tensor, sigma=0.0) -> Tensor:
        """p(class | x) at level sigma, (B, classes) float64: the Bayes classifier."""
        weight = torch.softmax(self._logits(x, sigma, None)[0], 1)
        return torch.zeros(len(x), self.num_classes, dtype=torch.float64).index_add_(1, self.labels, weight)

    def denoise(self, x: Tensor, sigma, label: Tensor | None = None) -> Tensor:
        """E[x0 | x] (B, d) in x's type: the posterior over components, each pulling x toward its own mean."""
        if label is None and bool((self.sds == self.sds[0]).all()):  # one variance for all: |x|^2 drops out, and passes over (B, K) with it
            var = self.sds[0] ** 2 + sigma_square(sigma)
            logits = torch.addmm(self.weights.log() * var - self.means.square().sum(1) / 2, x.double(), self.means.T).div_(var)
            weight = torch.softmax(logits, 1)
            pull = sigma_square(sigma) / var
            return (pull * (weight @ self.means) + (1 - pull) * x.double()).to(x.dtype)
        logits, var = self._logits(x, sigma, label)
        weight = torch.softmax(logits, 1)
        pulled = weight * (sigma_square(sigma) / var)
        return (pulled @ self.means + (weight - pulled).sum(1, keepdim=True) * x.double()).to(x.dtype)


def sigma_square(sigma) -> Tensor:
    return torch.as_tensor(sigma, dtype=torch.float64).reshape(-1, 1) ** 2


class ExactDenoiser:
    """A mixture where a trained Denoiser could stand: (x, sigma, label) -> E[x0 | x, label], for solvers and for cfg alike."""

    def __init__(self, mixture: Mixture):
        self.mixture = mixture
        self.network = SimpleNamespace(config=SimpleNamespace(num_classes=mixture.num_classes, dim=mixture.dim))

    def __call__(self, x: Tensor, sigma, label: Tensor | None = None) -> Tensor:
        return self.mixture.denoise(x, sigma, label)
