#!/usr/bin/env python
"""Ship a finished run as a model: `python train/ship.py --help`."""

import project
from ddpm_app.cli.ship import main

if __name__ == "__main__":
    project.run(main)
