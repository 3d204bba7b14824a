#!/usr/bin/env python
"""Which training recipe learns most in the same time: `python train/study_recipes.py --help`."""

import project
from ddpm_app.cli.study_recipes import main

if __name__ == "__main__":
    project.run(main)
