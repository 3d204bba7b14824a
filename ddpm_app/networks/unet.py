"""The U-Net of Ho et al. 2020 (appendix B), with the same layers as the DDPM checkpoints on the Hugging Face hub.

F(x, t, label) -> (B, C, H, W) float32

x:     (B, C, H, W), scaled to unit variance
t:     (B,) float, the time of the noise level
label: (B,) int64; num_classes means "no class"
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from ddpm_app.networks.unet_config import UNetConfig


def group_norm(channels: int) -> nn.GroupNorm:
    """A GroupNorm of 32 groups as in Ho et al., or of fewer, so that each group has at least four channels.

    With one channel per group, the mean of each feature map would be lost, and the norm would be slower."""
    groups = min(32, channels // 4)
    while channels % groups:
        groups -= 1
    return GroupNorm(groups, channels, eps=1e-6)


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm that is also fast on channels_last maps on the CPU. PyTorch's kernel is 4 to 15 times slower on them (measured).

    In training it works on a contiguous copy. For inference on small maps it computes the statistics from the sums of x and x^2. The
    results are equal up to rounding."""

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        width = c // self.num_groups
        slow = 1 < h * w and width % 16 and x.device.type == "cpu" and x.is_contiguous(memory_format=torch.channels_last)
        if slow and torch.is_grad_enabled():
            return super().forward(x.contiguous()).contiguous(memory_format=torch.channels_last)
        if not slow or h * w >= 1024:
            return super().forward(x)
        pixels, n = x.permute(0, 2, 3, 1).reshape(b, h * w, c), h * w * width
        mean = pixels.sum(1, dtype=torch.float32).view(b, -1, width).sum(2) / n
        square = pixels.square().sum(1, dtype=torch.float32).view(b, -1, width).sum(2) / n
        rstd = torch.rsqrt((square - mean * mean).clamp(min=0) + self.eps)
        scale = rstd.repeat_interleave(width, 1) * self.weight
        shift = self.bias - mean.repeat_interleave(width, 1) * scale
        return torch.addcmul(shift.to(x.dtype)[:, :, None, None], x, scale.to(x.dtype)[:, :, None, None])


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoids of t, (B,) -> (B, dim) float32: sines then cosines of t / 10000^(k / (dim/2 - 1)) (Ho et al. 2020)."""
    half = dim // 2
    k = torch.arange(half, device=t.device, dtype=torch.float32)
    angle = t.float()[:, None] * torch.exp(-math.log(10_000) * k / max(half - 1, 1))
    return torch.cat([angle.sin(), angle.cos()], dim=1)


class ResBlock(nn.Module):
    """GroupNorm, SiLU, conv; + projected embedding; GroupNorm, SiLU, dropout, conv (starts at zero); + skip."""

    def __init__(self, c_in: int, c_out: int, emb: int, dropout: float):
        super().__init__()
        self.norm1, self.conv1 = group_norm(c_in), nn.Conv2d(c_in, c_out, 3, padding=1)
        self.emb_proj = nn.Linear(emb, c_out)
        self.norm2, self.conv2 = group_norm(c_out), nn.Conv2d(c_out, c_out, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.skip = nn.Conv2d(c_in, c_out, 1) if c_in != c_out else nn.Identity()
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        shift = self.emb_proj(emb)[:, :, None, None]
        if torch.is_grad_enabled():
            h = self.conv1(nnf.silu(self.norm1(x))) + shift
            return self.skip(x) + self.conv2(self.dropout(nnf.silu(self.norm2(h))))
        h = self.conv1(nnf.silu(self.norm1(x), inplace=True)).add_(shift)  # the same in place, which needs less memory traffic
        return self.conv2(self.dropout(nnf.silu(self.norm2(h), inplace=True))).add_(self.skip(x))


class Attention(nn.Module):
    """Self-attention over the H*W positions, added to its input; the output projection starts at zero."""

    def __init__(self, channels: int, head_dim: int):
        super().__init__()
        self.heads = max(channels // head_dim, 1) if head_dim else 1
        self.norm, self.qkv, self.out = group_norm(channels), nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.register_buffer("folded", None, persistent=False)
        self.register_buffer("folded_bias", None, persistent=False)

    def fold(self) -> None:
        """Replace the four projections by two for inference, if there is a single head. Sets folded, (2 C, C): query and value.

        q k^T equals (Wk^T (Wq x + bq)) x^T, except for terms that the softmax cancels. The output projection of a mean of v is the mean
        of Wo v."""
        if self.heads == 1:
            (q, k, v), (q0, _, v0) = self.qkv.weight.detach().float().chunk(3), self.qkv.bias.detach().float().chunk(3)
            out, scale = self.out.weight.detach().float(), len(q) ** -0.5
            self.folded = torch.cat([scale * k.T @ q, out @ v]).to(self.qkv.weight.dtype)
            self.folded_bias = torch.cat([scale * k.T @ q0, out @ v0 + self.out.bias.detach().float()]).to(self.qkv.weight.dtype)

    def _load_from_state_dict(self, *args) -> None:
        self.folded = None  # it was made from the old weights
        super()._load_from_state_dict(*args)

    def forward(self, x: Tensor) -> Tensor:
        b, c, h, w = x.shape
        tokens = self.norm(x).permute(0, 2, 3, 1).reshape(b, h * w, c)
        if self.folded is not None and fits_plainly(tokens) and not torch.is_grad_enabled():
            query, value = (nnf.linear(tokens, *both) for both in zip(self.folded.chunk(2), self.folded_bias.chunk(2)))
            y = (query @ tokens.transpose(1, 2)).softmax(-1) @ value
        else:
            q, k, v = self.qkv(tokens).view(b, h * w, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
            y = self.out(attend(q, k, v).transpose(1, 2).reshape(b, h * w, c))
        return x + y.view(b, h, w, c).permute(0, 3, 1, 2)


def fits_plainly(tokens: Tensor) -> bool:
    """Whether attention over tokens (..., N, d) is faster as two products and a softmax than as PyTorch's fused kernel.

    It is on the CPU, for up to 512 positions: the fused kernel reaches a third of the matrix-product rate there, backwards a tenth."""
    return tokens.device.type == "cpu" and tokens.shape[-2] <= 512


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, each (B, heads, N, d)."""
    if fits_plainly(q):
        return torch.softmax(q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5, dim=-1) @ v
    return nnf.scaled_dot_product_attention(q, k, v)


class Upsample(nn.Conv2d):
    """Nearest-neighbour upsampling by 2, then a 3x3 convolution.

    Each of the four outputs of a pixel depends on 2x2 input pixels only. After `fold`, inference therefore uses a 2x2 convolution
    before the upsampling, with 4/9 of the multiplications."""

    def __init__(self, channels: int):
        super().__init__(channels, channels, 3, padding=1)
        self.register_buffer("folded", None, persistent=False)

    def fold(self) -> None:
        """Add the taps that are applied to the same pixel. Sets folded, (4 C, C, 2, 2): top left, top right, bottom left, bottom right."""
        taps = torch.tensor([[[1.0, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], device=self.weight.device)
        w = torch.einsum("pay,qbx,oiyx->pqoiab", taps, taps, self.weight.detach().float())
        self.folded = w.reshape(-1, *w.shape[3:]).to(self.weight.dtype)

    def _load_from_state_dict(self, *args) -> None:
        self.folded = None  # it was made from the old weights
        super()._load_from_state_dict(*args)

    def forward(self, x: Tensor, size: torch.Size) -> Tensor:
        """x (B, C, h, w) -> (B, C, *size). size: 2h and 2w, or one more where the map had an odd size before downsampling."""
        b, c, h, w = x.shape
        if self.folded is None or torch.is_grad_enabled() or size != (2 * h, 2 * w):
            return super().forward(nnf.interpolate(x, size=size, mode="nearest"))
        corners = nnf.conv2d(x, self.folded, self.bias.repeat(4), padding=1).chunk(4, dim=1)
        y = torch.empty(b, h, 2, w, 2, c, dtype=x.dtype, device=x.device)
        for k, corner in enumerate(corners):
            p, q = divmod(k, 2)
            y[:, :, p, :, q] = corner[:, :, p : p + h, q : q + w].permute(0, 2, 3, 1)
        return y.view(b, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


class Level(nn.Module):
    """The layers of one resolution: residual blocks, each followed by attention if the configuration has it at this resolution."""

    def __init__(self, widths: list[tuple[int, int]], emb: int, attend: bool, config: UNetConfig):
        super().__init__()
        self.blocks = nn.ModuleList(ResBlock(a, b, emb, config.dropout) for a, b in widths)
        self.attention = nn.ModuleList(Attention(b, config.head_dim) for _, b in widths) if attend else None
        self.resample: nn.Conv2d | None = None  # the stride-2 convolution down, or Upsample

    def step(self, i: int, x: Tensor, emb: Tensor) -> Tensor:
        x = self.blocks[i](x, emb)
        return self.attention[i](x) if self.attention is not None else x


class UNet(nn.Module):
    """The network F of this module's docstring. Weights may be bf16: inputs are cast to their type; the last layer computes in float32."""

    def __init__(self, config: UNetConfig):
        super().__init__()
        self.config = config
        ch, emb = config.channels, 4 * config.channels
        self.time_mlp = nn.Sequential(nn.Linear(ch, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.label_emb = nn.Embedding(config.num_classes + 1, emb) if config.num_classes else None
        self.conv_in = nn.Conv2d(config.in_channels, ch, 3, padding=1)

        attend = [size in config.attention for size in config.resolutions]
        widths = [ch * m for m in config.multipliers]
        skips, now, last = [ch], ch, len(widths) - 1
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, width in enumerate(widths):
            level = Level([(now if j == 0 else width, width) for j in range(config.blocks)], emb, attend[i], config)
            skips += [width] * config.blocks
            if i < last:
                level.resample = nn.Conv2d(width, width, 3, stride=2)
                skips.append(width)
            self.down.append(level)
            now = width
        self.mid = nn.ModuleList(
            [ResBlock(now, now, emb, config.dropout), Attention(now, config.head_dim), ResBlock(now, now, emb, config.dropout)]
        )
        for i, width in reversed(list(enumerate(widths))):
            pairs = []
            for _ in range(config.blocks + 1):
                pairs.append((now + skips.pop(), width))
                now = width
            level = Level(pairs, emb, attend[i], config)
            if i:
                level.resample = Upsample(width)
            self.up.append(level)
        self.norm_out, self.conv_out = group_norm(ch), nn.Conv2d(ch, config.in_channels, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)
        nn.init.zeros_(self.conv_out.bias)

    def embedding(self, t: Tensor, label: Tensor | None = None) -> Tensor:
        """(B, 4 channels): what every block adds of t (B,) and label (B,), in the type of the weights."""
        emb = self.time_mlp(timestep_embedding(t, self.config.channels).to(self.conv_in.weight.dtype))
        if self.label_emb is not None:
            null = self.config.num_classes
            emb = emb + self.label_emb(torch.full((len(t),), null, device=t.device) if label is None else label)
        return nnf.silu(emb)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        dtype = self.conv_in.weight.dtype
        emb = self.embedding(t.expand(len(x)), label)
        h = self.conv_in(x.to(dtype))
        skips = [h]
        for level in self.down:
            for i in range(len(level.blocks)):
                h = level.step(i, h, emb)
                skips.append(h)
            if level.resample is not None:
                h = level.resample(nnf.pad(h, (0, 1, 0, 1)))
                skips.append(h)
        h = self.mid[2](self.mid[1](self.mid[0](h, emb)), emb)
        for level in self.up:
            for i in range(len(level.blocks)):
                h = level.step(i, torch.cat([h, skips.pop()], dim=1), emb)
            if level.resample is not None:
                # to the size of the next skip connection: 28 -> 14 -> 7 -> 3 goes back to 7, not to 6
                h = level.resample(h, skips[-1].shape[-2:])
        h = nnf.silu(self.norm_out(h), inplace=not torch.is_grad_enabled())
        with torch.autocast(x.device.type, enabled=False):
            return nnf.conv2d(h.float(), self.conv_out.weight.float(), self.conv_out.bias.float(), padding=1)


def parameter_count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


def forward_flops(network: UNet, batch: int = 1) -> int:
    """Floating-point operations (2 per multiply-add) of matrix products and convolutions in one forward pass."""
    from torch.utils.flop_counter import FlopCounterMode

    c = network.config
    p = next(network.parameters())
    x = torch.zeros(batch, *c.image_shape, device=p.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(x, torch.zeros(batch, device=p.device))
    return counter.get_total_flops()
