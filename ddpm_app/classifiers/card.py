"""The model cards (README.md) of the plain classifier, the noise-aware classifier and CLIP."""

from __future__ import annotations

from ddpm_app.networks.resnet import ClassifierConfig, NoisyConfig


def classifier_card(config: ClassifierConfig, metric: dict, parameters: int, command: str) -> str:
    """The card of a classifier, noise-aware or not. metric: what classifiers.training.measured returned, with its protocol."""
    return (_noisy_card if isinstance(config, NoisyConfig) else _plain_card)(config, metric, parameters, command)


def _plain_card(config: ClassifierConfig, metric: dict, parameters: int, command: str) -> str:
    t = config.training
    low, high = metric["interval95"]
    return f"""---
license: mit
library_name: ddpm-studio
---
# Classifier of {config.data}

A residual network ({parameters / 1e6:.2f} M parameters; widths {", ".join(map(str, config.widths))}, blocks
{", ".join(map(str, config.blocks))}) for {config.image_size}x{config.image_size} images of {config.in_channels} channel(s).
It measures whether generated images show the requested class (`train/judge.py`). It is not a diffusion model.
Load it with `ddpm_app.classifiers.classifier.load_classifier(path)`.

| measured | value | protocol |
|---|---|---|
| accuracy | **{metric["value"]:.2%}** (95 %: {low:.2%} to {high:.2%}) | {metric["protocol"]} |

Trained on {metric["trained_on"]}: {config.images_seen} images{_cycles(t)} {t["seconds"]:.0f} s on {t["device"]}, seed {t["seed"]}.
Nesterov SGD, peak learning rate {t["lr"]:g} (one cycle), batch {t["batch"]}, weight decay {t["weight_decay"]:g},
label smoothing {t["smoothing"]:g}{f", cutout of {t['cutout']} pixels" if t.get("cutout") else ""}.
Weights fp16 (float32 norm statistics), used in float32.

    {command}
"""


def _noisy_card(config: ClassifierConfig, metric: dict, parameters: int, command: str) -> str:
    t = config.training
    rows = "\n".join(f"| {r['sigma']:g} | {r['value']:.2%} | {r['nll']:.4f} |" for r in metric["by_level"])
    return f"""---
license: mit
library_name: ddpm-studio
---
# Noise-aware classifier of {config.data}

A residual network ({parameters / 1e6:.2f} M parameters; widths {", ".join(map(str, config.widths))}, blocks
{", ".join(map(str, config.blocks))}) with the inputs x = x0 + sigma eps and sigma, for {config.image_size}x{config.image_size}
images of {config.in_channels} channel(s). It guides samplers (`--classifier-scale`). Generated images are measured with the plain
classifier, which was trained without noise.
Load it with `ddpm_app.classifiers.classifier.load_classifier(path, noise_aware=True)`.

| sigma | accuracy | nats |
|---|---|---|
{rows}

Accuracy and mean -ln p(right class) on {metric["protocol"]}.

Trained on {metric["trained_on"]}, noised at the levels of the {t["schedule"]} schedule, t uniform: {config.images_seen} images{_cycles(t)}
{t["seconds"]:.0f} s on {t["device"]}, seed {t["seed"]}. Nesterov SGD, peak learning rate {t["lr"]:g} (one cycle), batch {t["batch"]},
weight decay {t["weight_decay"]:g}, label smoothing {t["smoothing"]:g}. Weights fp16 (float32 norm statistics), used in float32.

    {command}
"""


def _cycles(training: dict) -> str:
    """The part of the sentence about runs that this one continued."""
    parts = []
    while earlier := training.get("begun_from"):
        training = earlier["training"]
        parts.insert(
            0, f"{earlier['images_seen']} after one of peak {training['lr']:g}, {training['seconds']:.0f} s, seed {training['seed']}"
        )
    return f" in {len(parts) + 1} cycles ({'; '.join(parts)}); the last:" if parts else " in"


def clip_card(facts: dict, tower_parameters: int, parameters: int, command: str) -> str:
    """The card of a CLIP. facts: the content of clip.json, with its "metrics" and "real" figures. parameters: of the whole model."""
    t, real, rows = facts["training"], facts["real"], []
    for m in facts["metrics"]:
        low, high = m["interval95"]
        rows.append(f"| {m['name']} | **{m['value']:.2%}** (95 %: {low:.2%} to {high:.2%}) | {m['protocol']} |")
    origin = (
        f"Its image tower began as the classifier in `{facts['image_tower_from']}` (weights {facts['image_tower_digest'][:12]}).\n"
        "The two networks are therefore not independent: if both agree about an image, count that as one measurement, not two.\n"
        if facts["image_tower_from"]
        else "Its image tower was trained from random weights.\n"
    )
    return f"""---
license: mit
library_name: ddpm-studio
---
# A small CLIP of CIFAR-10

**It knows CIFAR-10 only**: ten classes, {facts["terms"]} search terms, 32x32 photos. Words that are in none of its captions ("blue",
"left", "two") have no effect, and it knows "red" only from "red deer". Similarities of two CLIPs cannot be compared: 0.9 here and
0.3 of ViT-B/32 are other scales.

An open_clip model with a configuration of its own: a residual network ({tower_parameters / 1e6:.2f} M parameters) and a text transformer
({(parameters - tower_parameters) / 1e6:.2f} M). Load it with `ddpm_app.classifiers.clip.load_clip()`. Weights fp16 (float32 norm
statistics), used in float32.

| measured | value | protocol |
|---|---|---|
{chr(10).join(rows)}
| average top-1 similarity of real images | **{real["average_top1"]:.4f}** | the same images and ten prompts |
| intended-class similarity of real images | **{real["intended"]:.4f}** | the same images and ten prompts |

{origin}
Trained on {facts["trained_on"]} images of the training split with captions made from the search terms in their file names:
{facts["images_seen"]} images in {t["seconds"]:.0f} s on {t["device"]}, seed {t["seed"]}, AdamW {t["lr"]:g} (one cycle), batch {t["batch"]}.

    {command}
"""
