#!/usr/bin/env python
"""Train a diffusion model: `python train/train_unet.py --help`."""

import project
from ddpm_app.cli.train import main

if __name__ == "__main__":
    project.run(main)
