#!/usr/bin/env python
"""Train the classifier that measures generated images, or with --noisy the one that guides samplers, and measure its accuracy.

    python train/train_classifier.py --data mnist --epochs 6 --out checkpoints/classifiers/mnist
    python train/train_classifier.py --data cifar10 --minutes 2 --batch 512 --lr 0.4 --out checkpoints/classifiers/cifar10  # on a GPU
    python train/train_classifier.py --noisy --data cifar10 --minutes 15 --out checkpoints/classifiers/cifar10-noisy

Writes classifier.json (with --noisy: noisy_classifier.json), weights.safetensors and README.md, the model card with the accuracy.
The optimiser is Nesterov SGD with one cycle of the learning rate over the budget. Photos are flipped, shifted and partly covered
by a grey square; digits are only shifted. --noisy adds noise of the schedule's levels instead of the grey square.
The test split is used once, after training, with the saved weights.
"""

from __future__ import annotations

import sys

import project
from ddpm_app.classifiers.training import ClassifierTraining, train


def main(argv: list[str] | None = None) -> int:
    settings = project.parse(ClassifierTraining, __doc__, argv)
    try:
        result = train(settings, "python train/train_classifier.py " + " ".join(sys.argv[1:] if argv is None else argv))
    except ValueError as error:
        print(f"train_classifier: {error}", file=sys.stderr)
        return 2
    low, high = result["interval95"]
    accuracy = f"test accuracy {result['value']:.4f} (n = {result['n']}, 95 % {low:.4f} to {high:.4f})"
    print(f"{result['images']} images, {result['seconds']:.0f} s; {accuracy}; {settings.out}")
    return 0


if __name__ == "__main__":
    project.run(main)
