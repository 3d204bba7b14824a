"""python -m ddpm_app: the command line, see cli/main.py."""

import sys

from ddpm_app.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
