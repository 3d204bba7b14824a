"""The U-Net in OpenVINO, for processors without bf16: convolutions in int8 or in float32, one compiled graph for each batch size.

In int8, the inputs of a convolution have 8 bits and its weights 7, each output channel with a scale of its own. With 8 bits, a sum of
two products can overflow 16 bits on processors without VNNI; with 7 every processor computes the same. The first and the last
convolution, the normalisations, attention and the embedding stay in float32. OpenVINO is optional and imported when it is used.
"""

from __future__ import annotations

import importlib.util
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ddpm_app.networks.unet import Attention, ResBlock, UNet, Upsample

SIZES = (1, 2, 4, 8, 16, 32)  # batches that a graph is compiled for; the caches of a processor hold no larger ones
WEIGHT_LEVELS = 63  # int8 weights are -63..63
FLOAT_LAYERS = ("conv_in", "conv_out")

Ranges = dict[str, tuple[float, float]]  # name of a convolution in the U-Net -> lowest and highest value of its input

log = logging.getLogger("ddpm_app")


def installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def int8_layers(network: UNet) -> dict[str, nn.Conv2d]:
    """The convolutions that run in int8, by name."""
    return {name: m for name, m in network.named_modules() if isinstance(m, nn.Conv2d) and name not in FLOAT_LAYERS}


@contextmanager
def observed_ranges(network: UNet) -> Iterator[Ranges]:
    """Inside this context every call of the network widens the ranges that it gives; each begins at (0, 0), the value of the padding."""
    ranges: Ranges = {}

    def watch(name: str) -> Callable:
        def widen(module: nn.Module, inputs: tuple) -> None:
            low, high = ranges.get(name, (0.0, 0.0))
            smallest, largest = inputs[0].aminmax()
            ranges[name] = min(low, float(smallest)), max(high, float(largest))

        return widen

    hooks = [layer.register_forward_pre_hook(watch(name)) for name, layer in int8_layers(network).items()]
    try:
        yield ranges
    finally:
        for hook in hooks:
            hook.remove()


def check_ranges(ranges: object, network: UNet) -> Ranges:
    """The ranges of a file as numbers. Raises ValueError unless each int8 layer of the network has one that contains zero."""
    layers = int8_layers(network)
    try:
        numbers = {str(name): (float(low), float(high)) for name, (low, high) in ranges.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValueError("the ranges are not pairs of numbers by layer") from None
    if numbers.keys() != layers.keys() or not all(-1e6 < low <= 0 <= high < 1e6 and low < high for low, high in numbers.values()):
        raise ValueError("the ranges do not belong to this network; each int8 layer needs one that contains zero")
    return numbers


def parts_of(n: int) -> list[tuple[int, int]]:
    """[(images, batch size they run in)] for n images. At most a quarter of a batch is padding."""
    parts = [(SIZES[-1], SIZES[-1])] * (n // SIZES[-1])
    rest = n % SIZES[-1]
    while rest:
        size = next(s for s in SIZES if s >= rest)
        size = size if 4 * rest > 3 * size else size // 2
        parts.append((min(rest, size), size))
        rest -= min(rest, size)
    return parts


class OpenVINONetwork(nn.Module):
    """A U-Net on the CPU, computed by OpenVINO where no gradient is asked for and by PyTorch elsewhere.

    network: float32, as device.for_inference prepares it
    ranges:  of the inputs of its int8 layers; None computes everything in float32
    """

    def __init__(self, network: UNet, ranges: Ranges | None = None):
        super().__init__()
        self.network, self.config, self.ranges = network, network.config, ranges
        self.failed = False  # after infinities or NaN; PyTorch computes from then on
        self._requests: dict[int, object] = {}
        self._lock = threading.Lock()

    @property
    def precision(self) -> str:
        return "float32 (OpenVINO)" if self.ranges is None else "int8 (OpenVINO)"

    def compile(self, size: int) -> None:
        """Compile the graph for a batch size of SIZES; takes about a second, once."""
        with self._lock:
            self._request(size)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        if self.failed or x.requires_grad:
            return self.network(x, t, label)
        emb = self.network.embedding(t.expand(len(x)), label).detach().float().numpy()
        maps, y, at = x.detach().float().contiguous().numpy(), torch.empty(x.shape), 0
        with self._lock:
            for count, size in parts_of(len(x)):
                inputs = [_padded(values[at : at + count], size) for values in (maps, emb)]
                result = self._request(size).infer(inputs, share_inputs=True, share_outputs=True)
                y[at : at + count] = torch.from_numpy(result[0][:count])
                at += count
        if not y.isfinite().all():
            self.failed = True
            log.warning("OpenVINO gave infinities or NaN; PyTorch computes this model from now on")
            return self.network(x, t, label)
        return y

    def _request(self, size: int):
        if size not in self._requests:
            import openvino

            options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}
            options["INFERENCE_PRECISION_HINT"] = "f32"  # of what is not int8, on processors with bf16, too
            compiled = openvino.Core().compile_model(_Graph(self.network, self.ranges, size).model(), "CPU", options)
            self._requests[size] = compiled.create_infer_request()
        return self._requests[size]


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    if len(values) == size:
        return values
    return np.concatenate([values, np.zeros((size - len(values), *values.shape[1:]), values.dtype)])


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().float().contiguous().numpy()


class _Graph:
    """UNet.forward after its embedding as an OpenVINO graph of static shapes; the methods follow those of networks/unet.py."""

    def __init__(self, network: UNet, ranges: Ranges | None, size: int):
        from openvino import opset13

        self.op, self.network, self.ranges, self.size = opset13, network, ranges, size
        self.names = {module: name for name, module in network.named_modules()}

    def model(self):
        import openvino

        op, network, config = self.op, self.network, self.network.config
        x = op.parameter([self.size, *config.image_shape], np.float32)
        emb = op.parameter([self.size, 4 * config.channels], np.float32)
        h = self.conv(network.conv_in, x)
        skips = [h]
        for level in network.down:
            for i in range(len(level.blocks)):
                h = self.step(level, i, h, emb)
                skips.append(h)
            if level.resample is not None:
                h = self.conv(level.resample, h, stride=2, before=0)
                skips.append(h)
        h = self.block(network.mid[2], self.attention(network.mid[1], self.block(network.mid[0], h, emb)), emb)
        for level in network.up:
            for i in range(len(level.blocks)):
                h = self.step(level, i, op.concat([h, skips.pop()], 1), emb)
            if level.resample is not None:
                h = self.upsample(level.resample, h, self.shape(skips[-1])[2:])
        y = self.conv(network.conv_out, op.swish(self.norm(network.norm_out, h)))
        return openvino.Model([y], [x, emb], "unet")

    # -- parts ------------------------------------------------------------------------------------------------------------

    def shape(self, x) -> list[int]:
        return [int(d) for d in x.get_output_shape(0)]

    def numbers(self, values) -> object:
        """A float32 constant."""
        return self.op.constant(np.asarray(values, np.float32))

    def reshape(self, x, *shape: int):
        return self.op.reshape(x, self.op.constant(np.array(shape)), False)

    def transpose(self, x, *order: int):
        return self.op.transpose(x, self.op.constant(np.array(order)))

    def linear(self, x, weight: Tensor, bias: Tensor):
        return self.op.add(self.op.matmul(x, self.numbers(_numpy(weight)), False, True), self.numbers(_numpy(bias)))

    def conv(self, module: nn.Conv2d, x, stride: int = 1, before: int | None = None):
        """A convolution that keeps the size (or halves it). before: rows and columns of padding above and on the left."""
        op, name, weight = self.op, self.names[module], _numpy(module.weight)
        after = weight.shape[-1] // 2
        before = after if before is None else before
        after = 1 if stride == 2 else after
        if self.ranges is not None and name not in FLOAT_LAYERS:
            x = self.rounded(x, *self.ranges[name])
            scale = np.maximum(np.abs(weight).max(axis=(1, 2, 3), keepdims=True), 1e-12) / WEIGHT_LEVELS
            whole = op.constant(np.rint(weight / scale).astype(np.int8))
            weight = op.multiply(op.convert(whole, np.float32), self.numbers(scale))
        else:
            weight = op.constant(weight)
        y = op.convolution(x, weight, [stride] * 2, [before] * 2, [after] * 2, [1, 1])
        return op.add(y, self.numbers(_numpy(module.bias).reshape(1, -1, 1, 1)))

    def rounded(self, x, low: float, high: float):
        """x rounded to 256 levels from about low to high, one of which is zero: the padding of the next convolution."""
        scale = (high - low) / 255
        below = round(-low / scale)
        ends = self.numbers(-below * scale), self.numbers((255 - below) * scale)
        return self.op.fake_quantize(x, *ends, *ends, 256)

    def norm(self, module: nn.GroupNorm, x):
        """Group normalisation from the sums of x and x^2 of each channel, which OpenVINO computes in the layout of its convolutions; its
        own operation changes the layout twice and took 1.4 times as long in all."""
        op, (b, c, h, w), groups = self.op, self.shape(x), module.num_groups
        rows, each = op.constant(np.array([2, 3])), op.constant(np.array([2]))
        mean = op.reduce_mean(self.reshape(op.reduce_mean(x, rows, True), b, groups, -1), each, True)
        length = self.reshape(op.reduce_l2(x, rows, True), b, groups, c // groups)
        square = op.reduce_mean(op.multiply(op.multiply(length, length), self.numbers(1 / (h * w))), each, True)
        variance = op.maximum(op.subtract(square, op.multiply(mean, mean)), self.numbers(0.0))  # rounding may leave it below zero
        deviation = op.sqrt(op.add(variance, self.numbers(module.eps)))
        scale = op.divide(self.numbers(_numpy(module.weight).reshape(1, groups, -1)), deviation)
        shift = op.subtract(self.numbers(_numpy(module.bias).reshape(1, groups, -1)), op.multiply(mean, scale))
        return op.add(op.multiply(x, self.reshape(scale, b, c, 1, 1)), self.reshape(shift, b, c, 1, 1))

    def block(self, module: ResBlock, x, emb):
        op = self.op
        shift = self.reshape(self.linear(emb, module.emb_proj.weight, module.emb_proj.bias), self.size, -1, 1, 1)
        h = op.add(self.conv(module.conv1, op.swish(self.norm(module.norm1, x))), shift)
        skip = self.conv(module.skip, x) if isinstance(module.skip, nn.Conv2d) else x
        return op.add(self.conv(module.conv2, op.swish(self.norm(module.norm2, h))), skip)

    def step(self, level, i: int, x, emb):
        x = self.block(level.blocks[i], x, emb)
        return self.attention(level.attention[i], x) if level.attention is not None else x

    def attention(self, module: Attention, x):
        op, (b, c, h, w), heads = self.op, self.shape(x), module.heads
        tokens = self.reshape(self.transpose(self.norm(module.norm, x), 0, 2, 3, 1), b, h * w, c)
        if module.folded is not None:  # a single head: see Attention.fold
            query, value = (self.linear(tokens, *both) for both in zip(module.folded.chunk(2), module.folded_bias.chunk(2)))
            y = op.matmul(op.softmax(op.matmul(query, tokens, False, True), -1), value, False, False)
        else:
            weights, biases = list(module.qkv.weight.chunk(3)), list(module.qkv.bias.chunk(3))
            scale = (c // heads) ** -0.5
            weights[0], biases[0] = weights[0] * scale, biases[0] * scale
            q, k, v = (
                self.transpose(self.reshape(self.linear(tokens, *both), b, h * w, heads, c // heads), 0, 2, 1, 3)
                for both in zip(weights, biases)
            )
            y = op.matmul(op.softmax(op.matmul(q, k, False, True), -1), v, False, False)
            y = self.linear(self.reshape(self.transpose(y, 0, 2, 1, 3), b, h * w, c), module.out.weight, module.out.bias)
        return op.add(x, self.transpose(self.reshape(y, b, h, w, c), 0, 3, 1, 2))

    def upsample(self, module: Upsample, x, size: list[int]):
        how = {"mode": "nearest", "shape_calculation_mode": "sizes", "coordinate_transformation_mode": "asymmetric"}
        sizes, axes = self.op.constant(np.array(size)), self.op.constant(np.array([2, 3]))
        return self.conv(module, self.op.interpolate(x, sizes, **how, nearest_mode="floor", axes=axes))
