#!/usr/bin/env python
"""Train the small CLIP that ships: CIFAR-10's images against captions made from the search terms in its file names.

    python train/train_clip.py --minutes 25 --init-image checkpoints/classifiers/cifar10 --out checkpoints/clip/cifar10
    python train/train_clip.py --minutes 4 --batch 1024 --out checkpoints/clip/cifar10     # on a GPU, from random weights

With --init-image the image tower starts as that classifier, is not trained at first, and then at a tenth of the learning rate.
The test split is used once, after training, with the saved weights. How captions are made: ddpm_app/classifiers/clip_training.py.
"""

from __future__ import annotations

import sys

import project
from ddpm_app.classifiers.clip_training import ClipTraining, train


def main(argv: list[str] | None = None) -> int:
    settings = project.parse(ClipTraining, __doc__, argv)
    try:
        facts = train(settings, "python train/train_clip.py " + " ".join(sys.argv[1:] if argv is None else argv))
    except ValueError as error:
        print(f"train_clip: {error}", file=sys.stderr)
        return 2
    metrics = "; ".join(f"{m['name']} {m['value']:.4f}" for m in facts["metrics"])
    print(f"{facts['images_seen']} images, {facts['training']['seconds']:.0f} s; {metrics}; {settings.out}")
    return 0


if __name__ == "__main__":
    project.run(main)
