"""The network of the 2-D lab: an MLP, and many such networks stacked into one computation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

MAX_DIM = 64


@dataclass(frozen=True)
class ToyConfig:
    """The shape of a toy network.

    dim: d of the points
    width, depth: of the hidden layers
    time_dim: numbers in the sinusoidal embedding of t
    time_width: width of the MLP that embeds t
    num_classes: 0 for an unconditional network"""

    dim: int = 2
    width: int = 256
    depth: int = 2
    time_dim: int = 32
    time_width: int = 128
    num_classes: int = 0

    def __post_init__(self):
        ok = 1 <= self.dim <= MAX_DIM and 8 <= self.width <= 2048 and 1 <= self.depth <= 8 and 0 <= self.num_classes <= 1000
        if not ok or self.time_dim % 2 or not 2 <= self.time_dim <= 512 or not 8 <= self.time_width <= 2048:
            raise ValueError(
                f"this toy network cannot be built: {self}; accepted are dim 1..64, width 8..2048, depth 1..8,"
                " num_classes 0..1000, even time_dim 2..512 and time_width 8..2048"
            )

    def layers(self) -> dict[str, tuple[int, int, bool]]:
        """name -> (in, out, bias) of every matrix, in the order they are applied."""
        shapes = {"time0": (self.time_dim, self.time_width, True), "time1": (self.time_width, self.time_width, True)}
        shapes |= {"point": (self.dim, self.width, True), "level": (self.time_width, self.width, False)}
        shapes |= {f"hidden{k}": (self.width, self.width, True) for k in range(1, self.depth)}
        return shapes | {"out": (self.width, self.dim, True)}


def _mlp(config: ToyConfig, linear, classes, x: Tensor, t: Tensor) -> Tensor:
    """The output of the network for inputs with any leading axes.

    linear:  linear(name, h) applies the matrix of this name
    classes: class embedding that is added to the time embedding, or None
    The input layer has one matrix for x and one for the time embedding, so that a time shared by the whole batch is embedded once."""
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
    """t, or only its first value (1,) if it is one number expanded over the batch."""
    return t[:1] if t.ndim and len(t) and t.stride(0) == 0 else t


class ToyMLP(nn.Module):
    """F(x (B, d), t (B,), label (B,) int64 or None) -> (B, d), with the same signature as the U-Net."""

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
    """M networks of the same shape as one module, with weights (M, in, out).

    F(x (M B, d), t (M B,), label (M B,) or None) -> (M B, d). The first B rows belong to the first network, and so on.
    offset: (M,) int64, subtracted from t. It is used if the noise levels of all networks are joined in one list.
    Raises ValueError for networks of different shapes."""

    def __init__(self, networks: Sequence[ToyMLP], offset: Tensor | None = None):
        super().__init__()
        self.config, self.size = networks[0].config, len(networks)
        if any(n.config != self.config for n in networks):
            raise ValueError("the networks of a stack must have the same ToyConfig")
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
        """The M networks. values: tensors to use instead of the parameters, by parameter name, e.g. running averages."""
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
