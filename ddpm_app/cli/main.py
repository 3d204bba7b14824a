"""The command line: what the page does, without the page.

Exit code 0: done; 2: the request was wrong, and one sentence on stderr says why.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys

from ddpm_app.flags import Parser

# command -> its line of help. ddpm_app/cli/COMMAND.py has add_arguments(parser) and run(args) -> exit code, and is imported
# only when its command is chosen: most of them import torch, which takes seconds.
COMMANDS = {
    "sample": "denoise images to .npz, .png or a folder",
    "noise": "the forward process on an image",
    "code": "bits per dimension, rate and distortion of images",
    "interpolate": "images between two images or two seeds",
    "label": "zero-shot labels by CLIP",
    "evaluate": "distances, classifier agreement, bits per dimension",
    "models": "the checkpoints on this machine",
    "runs": "training runs: list, watch, pause, stop, resume, delete; ema, history",
    "bench": "speed of this machine",
    "toy": "the 2-D lab: diffusion where the truth is known",
}


def command_parser(command: str) -> argparse.ArgumentParser:
    """The parser of one command; its default `run` is the command's function."""
    module = importlib.import_module(f"ddpm_app.cli.{command}")
    description = module.__doc__.partition(": ")[2] or module.__doc__
    parser = Parser(prog=f"python -m ddpm_app {command}", description=description[0].upper() + description[1:])
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


def overview() -> argparse.ArgumentParser:
    """The parser that lists the commands and refuses others."""
    formatter = argparse.RawDescriptionHelpFormatter
    parser = Parser(prog="python -m ddpm_app", description=__doc__, formatter_class=formatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    command = argv[0] if argv and argv[0] in COMMANDS else ""
    try:
        if not command:
            overview().parse_args(argv)
        args = command_parser(command).parse_args(argv[1:])
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as `| head`, has closed the pipe
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more as it ends
        return 141
    except (ValueError, OSError) as error:  # CheckpointError and PictureError are ValueErrors
        # of the two names of a rename, the second is the one people know; the first is a temporary file
        name = isinstance(error, OSError) and (error.filename2 or error.filename)
        message = f"{name}: {error.strerror}" if name else " ".join(str(error).split())
        print(f"ddpm_app {command}: {message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ddpm_app {command}: stopped", file=sys.stderr)
        return 130
