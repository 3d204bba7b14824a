"""The device and the number format that networks run in."""

from __future__ import annotations

import ctypes
from functools import lru_cache
from pathlib import Path

import torch
from torch import nn


@lru_cache(maxsize=1)
def cpu_has_bf16() -> bool:
    """Whether this processor multiplies bf16 matrices in hardware (AVX-512 BF16 or AMX). On others bf16 is slower than float32."""
    try:
        flags = Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split()
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def pick_device(name: str = "auto") -> torch.device:
    """The device of this name. "auto" is CUDA if available, else Apple's MPS, else the CPU. Raises ValueError for a missing device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if name.partition(":")[0] not in ("cpu", "cuda", "mps"):
        raise ValueError(f"unknown device {name!r}; auto, cpu, cuda (or cuda:1, ...) and mps are accepted")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device {name!r} cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def pick_dtype(device: torch.device, name: str = "auto") -> torch.dtype:
    """The number format of matrix products: "bf16", "fp32", or "auto": bf16 if the hardware multiplies it, else float32."""
    if name == "auto":
        fast = torch.cuda.is_bf16_supported() if device.type == "cuda" else device.type == "cpu" and cpu_has_bf16()
        return torch.bfloat16 if fast else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[name]


def memory_format(device: torch.device, dtype: torch.dtype = torch.float32) -> torch.memory_format:
    """The memory layout of a network in training: channels_last on CUDA, and on CPUs in bf16, because convolutions are faster in it.

    On CPUs, GroupNorm still works on contiguous copies (unet.GroupNorm). This mix was measured to be faster than one layout for all
    (train/LOG.md)."""
    wanted = device.type == "cuda" or (device.type == "cpu" and dtype == torch.bfloat16)
    return torch.channels_last if wanted else torch.contiguous_format


@lru_cache(maxsize=1)
def keep_freed_memory() -> None:
    """Tell glibc to keep the memory of freed tensors (up to 32 MB each) for the next ones, instead of returning it to the system.

    Returned memory is cleared again for the next layer, which took 5 to 10 % of a forward pass. Does nothing without glibc."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return
    mmap_threshold, trim_threshold = -3, -1
    mallopt(mmap_threshold, 32 * 2**20)
    mallopt(trim_threshold, 2**31 - 1)


def for_inference(network: nn.Module, device: torch.device, dtype: torch.dtype | None = None) -> nn.Module:
    """The network prepared for sampling on a device: evaluation mode, no gradients, channels_last, weights cast to dtype.

    dtype: None chooses pick_dtype(device). On the CPU, some weights are also combined (`fold` of unet.Upsample and unet.Attention)."""
    network = network.eval().requires_grad_(False)
    if device.type == "cpu":
        keep_freed_memory()
        for module in network.modules():
            if hasattr(module, "fold"):
                module.fold()
    return network.to(device, dtype or pick_dtype(device)).to(memory_format=torch.channels_last)


def describe(device: torch.device) -> str:
    """The device's name for display: "CPU, 2 threads, bf16" or "NVIDIA H200"."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    bf16 = ", bf16" if pick_dtype(device) == torch.bfloat16 else ""
    if device.type != "cpu":
        return device.type.upper()
    threads = torch.get_num_threads()
    return f"CPU, {threads} thread{'s' * (threads != 1)}{bf16}"
