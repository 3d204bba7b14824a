"""Small real checkpoints for tests: our file format, our network, random weights, so that nothing needs training."""

from __future__ import annotations

import os
import shutil
import time

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch

from ddpm_app.checkpoints import checkpoint
from ddpm_app.images.datasets import CIFAR10_CLASSES, MNIST_CLASSES
from ddpm_app.networks.unet import UNet, UNetConfig
from ddpm_app.studio.studio import Studio

torch.set_num_threads(1)  # the networks here are so small that a second thread only waits


def make_checkpoint(path, *, size=16, channels=3, classes=CIFAR10_CLASSES, row="v", schedule="cosine", seed=0, T=1000, data="random"):
    """A checkpoint whose output depends on everything: no zero-initialised layer is left at zero."""
    config = UNetConfig(size, channels, channels=16, multipliers=(1, 2), blocks=1, attention=(8,), dropout=0.0, num_classes=len(classes))
    torch.manual_seed(seed)
    network = UNet(config)
    with torch.no_grad():
        for p in network.parameters():
            if not p.any():
                p.normal_(std=0.05)
        if network.label_emb is not None:
            network.label_emb.weight.normal_(std=2.0)
    return checkpoint.save(
        path, checkpoint.CheckpointConfig(config, {"name": schedule, "T": T}, row, data, tuple(classes), 1234), network.state_dict()
    )


def make_judges(root):
    """A classifier and a noise-aware one of the models' data: random weights, but sure of themselves."""
    from ddpm_app.classifiers.classifier import save_classifier
    from ddpm_app.networks.resnet import ClassifierConfig, NoisyConfig, NoisyResNet, ResNet

    for name, classes, size, channels, seed in (("random", CIFAR10_CLASSES, 16, 3, 0), ("random-grey", MNIST_CLASSES, 14, 1, 1)):
        kind = dict(data=name, classes=classes, image_size=size, in_channels=channels, widths=(8, 12), blocks=(0, 1))
        for config, build, suffix in (
            (ClassifierConfig(**kind), ResNet, ""),
            (NoisyConfig(**kind, embedding=16), NoisyResNet, "-noisy"),
        ):
            torch.manual_seed(seed)
            network = build(config)
            with torch.no_grad():
                network.head.weight.normal_()
            save_classifier(root / "classifiers" / (name + suffix), config, network)


FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 60_000  # ms; waits end as soon as what they wait for is there
# noise of the libraries, and of a stream that a closing page lets go of
HARMLESS = ("Method not implemented.", "vega", "Vega", "preload", "was detected in the DOM")


@pytest.fixture(scope="session")
def roots(tmp_path_factory):
    """A directory with two models: cifar10-random (16x16 RGB, 10 classes) and mnist-random (14x14 grey, linear eps)."""
    root = tmp_path_factory.mktemp("checkpoints")
    make_checkpoint(root / "cifar10-random")
    make_checkpoint(
        root / "mnist-random", size=14, channels=1, classes=MNIST_CLASSES, row="eps", schedule="linear", seed=1, data="random-grey"
    )
    make_checkpoint(root / "plain-random", classes=(), seed=2)
    make_judges(root)
    return [root]


@pytest.fixture(scope="session")
def studio(roots):
    """float32: in bf16 a batch of another size rounds otherwise, which random weights blow up."""
    return Studio(roots, device="cpu", precision="fp32")


class Slow(Studio):
    """A studio whose steps can be held at a gate, instead of tests that rely on speed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.hold_after = None  # steps
        self.steps = 0

    def sample(self, request, *args, **kwargs):
        for frame in super().sample(request, *args, **kwargs):
            self.steps = frame.i
            yield frame
            deadline = time.monotonic() + 60
            while self.hold_after is not None and frame.i >= self.hold_after and time.monotonic() < deadline:
                time.sleep(0.01)
                yield frame


@pytest.fixture(scope="session")
def browser():
    if CHROMIUM is None:
        if os.environ.get("CI"):
            pytest.fail("no Chromium found, and this is CI")
        pytest.skip("no Chromium found (chromium, chromium-browser or google-chrome on the PATH)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def app(roots):
    from ddpm_app.ui import build, launch_options

    studio = Slow(roots, device="cpu", precision="fp32")
    page = build(studio)
    _, url, _ = page.launch(prevent_thread_lock=True, server_port=None, **launch_options())
    yield studio, url
    page.close()


@pytest.fixture
def page(browser, app):
    studio, url = app
    studio.hold_after = None
    context = browser.new_context(viewport={"width": 1440, "height": 900}, accept_downloads=True)
    page = context.new_page()
    trouble = []
    page.on("request", lambda r: trouble.append(f"left the machine: {r.url}") if not r.url.startswith((url, "data:", "blob:")) else None)
    page.on("response", lambda r: trouble.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("pageerror", lambda e: trouble.append(f"error: {e}"))
    page.on(
        "console", lambda m: trouble.append(f"{m.type}: {m.text}") if m.type == "error" and not any(h in m.text for h in HARMLESS) else None
    )
    page.set_default_timeout(PATIENCE)
    page.goto(url)
    page.wait_for_selector("#generate-start")
    yield page
    context.close()
    assert trouble == []
