#!/usr/bin/env python
"""Tune a model to few evaluations: `python train/tune_few.py --help`."""

import project
from ddpm_app.cli.tune_few import main

if __name__ == "__main__":
    project.run(main)
