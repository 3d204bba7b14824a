"""Mixtures of Gaussians: their density, their class posterior and their exact denoiser.

Denoiser, cfg, the samplers and the schedules are the same code as for images; here x has shape (B, d).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Mixture:
    """A mixture of isotropic Gaussians, float64.

    weights: (K,)
    means: (K, d)
    sds: (K,) standard deviations; 0 makes a component a point, which has a density only at sigma > 0
    labels: (K,) int64, the class of each component"""

    weights: Tensor
    means: Tensor
    sds: Tensor
    labels: Tensor

    @staticmethod
    def of(means: Tensor, sds: float | Tensor, labels: Tensor | None = None, weights: Tensor | None = None) -> Mixture:
        """A checked mixture. labels: None puts all components in one class. weights: None makes all equal; they are normalised.

        Raises ValueError for negative weights or deviations, and for weights that are all 0."""
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
        """ln w_k N(x; mu_k, (sd_k^2 + sigma^2) I), (B, K), and the variances (B or 1, K). label: the null class means all classes."""
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
        """ln p_sigma(x), (B,) float64: the mixture with Gaussian noise of sigma added. With labels (B,), the density of the class alone."""
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
        """E[x0 | x] (B, d) in x's type: the mean over the posterior of the components."""
        if label is None and bool((self.sds == self.sds[0]).all()):  # with one variance |x|^2 cancels: faster
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
    """A mixture that is called like a trained Denoiser: (x, sigma, label) -> E[x0 | x, label]."""

    def __init__(self, mixture: Mixture):
        self.mixture = mixture
        self.network = SimpleNamespace(config=SimpleNamespace(num_classes=mixture.num_classes, dim=mixture.dim))

    def __call__(self, x: Tensor, sigma, label: Tensor | None = None) -> Tensor:
        return self.mixture.denoise(x, sigma, label)
