"""The sampling speed of this machine: the forward pass of every preset, and the preset `ddpm` here and in diffusers.

A forward pass is also given as a share of the machine's best matrix-product rate. The measurements alternate, so that other load on
the machine affects all of them alike. Every figure is a median.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file

from ddpm_app.checkpoints import diffusers as checkpoints_diffusers
from ddpm_app.diffusion.denoiser import Denoiser
from ddpm_app.diffusion.guidance import conditioned
from ddpm_app.diffusion.samplers import ddim, last
from ddpm_app.diffusion.schedules import from_vp, make_schedule, sigma_grid
from ddpm_app.files import save_tensors
from ddpm_app.networks.device import describe, for_inference, pick_device, pick_dtype
from ddpm_app.networks.unet import UNet, forward_flops
from ddpm_app.networks.unet_config import PRESETS, UNetConfig, preset_config
from ddpm_app.paths import PROJECT

BATCHES = (1, 4, 16)
MATRICES = (1024, 1536, 2048)
QUICK_NETWORK = UNetConfig(8, 3, channels=128, multipliers=(1, 1), blocks=1, attention=(4,), dropout=0.0)


def machine(device: str, precision: str, rounds: int) -> tuple[torch.device, torch.dtype, dict]:
    """The device, the type of its matrix products, and {"device", "torch", "precision"}. Raises ValueError for less than one round."""
    if rounds < 1:
        raise ValueError(f"rounds is {rounds}; at least 1 is needed")
    where = pick_device(device)
    dtype = pick_dtype(where, precision)
    precision = "bf16" if dtype == torch.bfloat16 else "fp32"
    return where, dtype, {"device": describe(where), "torch": torch.__version__, "precision": precision}


def seconds_per_call(work: Callable[[], object], device: torch.device, least: float = 0.0) -> float:
    """Wall-clock seconds of one call: the mean over consecutive calls that together take at least `least` seconds."""
    calls, begun = 0, time.perf_counter()
    while True:
        work()
        calls += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if (took := time.perf_counter() - begun) >= least:
            return took / calls


def _with_random_weights(config: UNetConfig) -> UNet:
    """Layers that start at zero get random weights, because a product with zeros may run faster."""
    torch.manual_seed(0)
    network = UNet(config)
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.normal_(std=0.02)
    return network.eval()


def _networks(presets: tuple[str, ...], batches: tuple[int, ...], rounds: int, matrices: tuple[int, ...], device, dtype) -> dict:
    """{"matmul": GFLOP/s by matrix side, "networks": a row for each preset and batch}."""
    work: dict[object, Callable[[], object]] = {}
    for side in matrices:
        a = torch.randn(side, side, device=device).to(dtype)
        work[side] = lambda a=a: a @ a
    rows = []
    for name in presets:
        network = for_inference(_with_random_weights(preset_config(name, num_classes=10)), device, dtype)
        for batch in batches:
            x = torch.randn(batch, 3, 32, 32, device=device)
            t, label = torch.full((batch,), 500.0, device=device), torch.zeros(batch, dtype=torch.long, device=device)
            work[name, batch] = lambda n=network, args=(x, t, label): n(*args)
            rows.append({"preset": name, "batch": batch, "gflop_per_image": forward_flops(network, batch) / batch / 1e9})
    seconds: dict[object, list[float]] = {key: [] for key in work}
    with torch.inference_mode():
        for run in work.values():
            seconds_per_call(run, device)  # the first call allocates and picks kernels
        for _ in range(rounds):
            for key, run in work.items():
                seconds[key].append(seconds_per_call(run, device, least=0.1))
    matmul = {side: 2 * side**3 / median(seconds[side]) / 1e9 for side in matrices}
    for row in rows:
        row["images_per_s"] = row["batch"] / median(seconds[row["preset"], row["batch"]])
        row["share"] = row["images_per_s"] * row["gflop_per_image"] / max(matmul.values())
    return {"matmul": matmul, "networks": rows}


def _beside_diffusers(config: UNetConfig, batch: int, steps: int, rounds: int, device, dtype) -> dict:
    """Alternating timings of `steps` steps of DDIM from the same weights and noise: this program, and diffusers with its defaults.

    diffusers runs in another process, because this one tells the allocator to keep memory (device.keep_freed_memory)."""
    network = _with_random_weights(config)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints_diffusers.to_diffusers(network).save_pretrained(folder)
        g = torch.Generator().manual_seed(1)
        start = torch.randn(batch, *config.image_shape, generator=g)
        save_tensors(Path(folder) / "start.safetensors", {"x": start})
        denoiser = Denoiser(for_inference(network, device, dtype), make_schedule("linear"), "eps")
        sigmas = sigma_grid(denoiser.schedule, steps)
        x = from_vp(start.to(device), sigmas[0])
        final = []

        def in_this_program() -> None:
            with torch.inference_mode():
                final[:] = [last(ddim(conditioned(denoiser, None), x, sigmas)).cpu()]

        command = [sys.executable, "-m", __name__, folder, str(device), str(steps), str(torch.get_num_threads())]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        with subprocess.Popen(command, cwd=PROJECT, **pipes) as child:

            def in_diffusers() -> float:
                try:
                    print("go", file=child.stdin, flush=True)
                    return float(child.stdout.readline())
                except (ValueError, OSError) as error:
                    raise ValueError(f"the diffusers process of the comparison ended early: {' '.join(command)}") from error

            pairs = [(seconds_per_call(in_this_program, device), in_diffusers()) for _ in range(rounds + 1)][1:]  # the first round warms up
            child.stdin.close()
        expected = load_file(Path(folder) / "end.safetensors")["x"]
    here, diffusers = (batch / median(times) for times in zip(*pairs))
    difference = float((final[0] - expected).norm() / expected.norm())
    return {"steps": steps, "batch": batch, "ours": here, "theirs": diffusers, "ratio": here / diffusers, "difference": difference}


def _serve_diffusers(folder: str, device: str, steps: str, threads: str) -> None:
    """The diffusers process: each line on stdin runs the sampling loop once, and its seconds are printed."""
    from diffusers import DDIMScheduler, UNet2DModel

    torch.set_num_threads(int(threads))
    unet = UNet2DModel.from_pretrained(folder).to(device)
    scheduler = DDIMScheduler(timestep_spacing="trailing", clip_sample=False)
    start = load_file(Path(folder) / "start.safetensors")["x"].to(device)
    for _ in sys.stdin:
        begun, x = time.perf_counter(), start
        with torch.no_grad():
            scheduler.set_timesteps(int(steps))
            for t in scheduler.timesteps:
                x = scheduler.step(unet(x, t).sample, t, x).prev_sample
        x = x.cpu()
        print(time.perf_counter() - begun, flush=True)
        save_tensors(Path(folder) / "end.safetensors", {"x": x})


def bench_sampling(device: str = "auto", precision: str = "auto", rounds: int = 5, quick: bool = False, diffusers: bool = True) -> dict:
    """Measure the sampling speed. Takes minutes on two cores.

    rounds: measurements of each figure. quick: measure the smallest networks once, as a check. Returns a dict:
    device, torch, precision   what was measured
    matmul                     GFLOP/s by side of the matrices
    networks                   [{"preset", "batch", "images_per_s", "gflop_per_image", "share" of the best matrix rate}]
    diffusers                  {"steps", "batch", "ours" and "theirs" in images/s, "ratio", "difference" of the results, relative},
                               or {"skipped": why}
    Raises ValueError for less than one round."""
    where, dtype, facts = machine(device, precision, rounds)
    sizes = (("tiny",), (1, 2), 1, (256,)) if quick else (tuple(PRESETS)[::-1], BATCHES, rounds, MATRICES)
    facts |= _networks(*sizes, where, dtype)
    if not diffusers or importlib.util.find_spec("diffusers") is None:
        facts["diffusers"] = {"skipped": "not installed" if diffusers else "not asked for"}
    elif quick:
        facts["diffusers"] = _beside_diffusers(QUICK_NETWORK, 2, 2, 1, where, dtype)
    else:
        facts["diffusers"] = _beside_diffusers(preset_config("ddpm"), 16, 20, max(rounds // 2 + 1, 1), where, dtype)
    return facts


def table(facts: dict) -> str:
    """What bench_sampling returned, as text."""
    best = max(facts["matmul"].values())
    lines = [f"{facts['device']}; torch {facts['torch']}; {facts['precision']} matrix products: {best:.0f} GFLOP/s at best", ""]
    lines.append(f"{'network':8} {'batch':>5} {'images/s':>9} {'GFLOP/image':>12} {'of the matrix rate':>19}")
    for row in facts["networks"]:
        numbers = f"{row['images_per_s']:9.1f} {row['gflop_per_image']:12.2f} {row['share']:19.0%}"
        lines.append(f"{row['preset']:8} {row['batch']:5} {numbers}")
    d = facts["diffusers"]
    if "skipped" in d:
        return "\n".join([*lines, "", f"diffusers: {d['skipped']}"])
    head = f"{d['steps']} steps of DDIM, batch {d['batch']}, the same weights (diffusers with its defaults, in float32):"
    rates = f"ours {d['ours']:.3g} images/s, diffusers {d['theirs']:.3g} images/s: {d['ratio']:.2f} times as fast"
    return "\n".join([*lines, "", head, f"{rates}; the results differ by {d['difference']:.1%}"])


if __name__ == "__main__":
    _serve_diffusers(*sys.argv[1:])
