#!/usr/bin/env python
"""What steering does to a model's images: agreement with the requested class, confidence, CLIP similarity, and the time of a step.

    python train/measure_steering.py mnist --n 100 --classifier-scales 0,1,2,4
    python train/measure_steering.py cifar10 --n 100 --classifier-scales 0,1,2,4 --candidates 4
    python train/measure_steering.py cifar10 --n 32 --text "a photo of a horse" --text-class horse --text-scales 0,30,100

Classifier guidance steers the prediction without a class (guidance 0) toward each image's class. The row "conditional" has guidance 1,
"classifier-free" the page's default. The classifier that measures agreement never saw noise; another network guides. But ranking by the
classifier that then measures is circular, and the row's name says so.

With --text, CLIP guides images that are drawn without a class, and also measures the similarity. The noise-aware classifier, at sigma 0,
then measures agreement with --text-class: CLIP's image tower was trained from the weights of the other classifier, so the two would make
the same mistakes.
"""

import project
from ddpm_app.cli import measure_steering


def main(argv: list[str] | None = None) -> int:
    return measure_steering.main(argv, __doc__)


if __name__ == "__main__":
    project.run(main)
