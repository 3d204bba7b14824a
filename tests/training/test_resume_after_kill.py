"""kill -9 at random moments: the run resumes every time and ends with the weights of the unbroken one, bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

ROOT = Path(__file__).resolve().parents[2]

# One process that has imported everything forks a trainer for each attempt: a kill costs no import of PyTorch.
HELPER = """
import os, random, signal, sys, time
sys.path[:0] = [sys.argv[1]]
import torch
from ddpm_app.cli.train import main
torch.set_num_threads(1)
argv, kills, chance = sys.argv[3:], int(sys.argv[2]), random.Random(7)

def attempt(out, seconds):
    pid = os.fork()
    if not pid:
        code = 9
        try:
            code = main([*argv, "--resume", "auto", "--out", out])
        finally:
            os._exit(code)
    begun = time.monotonic()
    if seconds is not None:
        time.sleep(seconds)
        os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    return time.monotonic() - begun, os.waitstatus_to_exitcode(status)

duration, code = attempt("whole", None)
assert code == 0, code
hit = 0
while hit < kills:
    _, code = attempt("broken", chance.uniform(0.02, 2 * duration / kills if hit % 2 else 0.5))
    if code == 0:  # it was quicker than the kill
        break
    assert code == -9, code
    hit += 1
_, code = attempt("broken", None)
assert code == 0, code
print("hit", hit)
"""


def tensors(file: Path) -> dict[str, bytes]:
    with safe_open(file, "np") as f:
        return {k: f.get_tensor(k).tobytes() for k in f.keys()}


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork here")
@pytest.mark.parametrize("kills, images", [(5, 160), pytest.param(50, 1600, marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_unbroken(tmp_path, kills, images):
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", arr_0=rng.integers(0, 255, (40, 8, 8, 1), dtype=np.uint8), arr_1=np.zeros(40, np.int64))
    argv = [
        "--data",
        str(tmp_path / "d.npz"),
        "--images",
        str(images),
        "--batch",
        "8",
        "--every",
        "2",
        "--marks",
        str(kills * 2),
        "--now",
    ]
    argv += ["--device", "cpu", "--label-dropout", "1", "--snapshots", "5"]
    done = subprocess.run(
        [sys.executable, "-c", HELPER, str(ROOT), str(kills), *argv], cwd=tmp_path, capture_output=True, text=True, timeout=1200
    )
    assert done.returncode == 0, done.stdout[-1500:] + done.stderr[-3000:]
    hit = int(done.stdout.rsplit("hit ", 1)[1])
    assert hit == kills
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for name in ("state.safetensors", "weights.safetensors"):
        assert tensors(whole / name) == tensors(broken / name), name
    rows = [json.loads(line) for line in (broken / "log.jsonl").read_text().splitlines()]
    steps = [r["step"] for r in rows if "loss" in r]
    assert steps == sorted(set(steps)) and steps[-1] == images // 8
    assert json.loads((broken / "end.json").read_text())["status"] == "finished"
    assert [p.name for p in sorted((whole / "snapshots").iterdir())] == [p.name for p in sorted((broken / "snapshots").iterdir())]
    assert not list(broken.rglob(".*.tmp"))
