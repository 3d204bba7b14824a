"""python -m ddpm_app sample | noise | code | interpolate | label | evaluate | models | runs | bench: what the page does, without the page.

Exit code 0: done; 2: the request was wrong, and one sentence on stderr says how.
"""

from __future__ import annotations

import argparse
import os
import sys


def _sample(commands) -> None:
    from ddpm_app.cli import sample

    sample.add_parser(commands)


def _noise(commands) -> None:
    from ddpm_app.cli import noise

    noise.add_parser(commands)


def _models(commands) -> None:
    from ddpm_app.cli import models

    models.add_parser(commands)


def _bench(commands) -> None:
    from ddpm_app.cli import bench

    p = commands.add_parser(
        "bench", help="speed of this machine", description="Measure this machine: networks, matrix rate, diffusers beside."
    )
    bench.add_arguments(p)
    p.set_defaults(run=bench.run)


def _runs(commands) -> None:
    from ddpm_app.cli import runs

    runs.add_parser(commands)


def _toy(commands) -> None:
    from ddpm_app.cli import toy

    p = commands.add_parser("toy", help="the 2-D lab: diffusion where the truth is known", description=toy.__doc__)
    toy.add_arguments(p)
    p.set_defaults(run=toy.run)


def _evaluate(commands) -> None:
    from ddpm_app.cli import evaluate

    p = commands.add_parser("evaluate", help="distances, readings, bits per dimension", description="Measure a checkpoint or images.")
    evaluate.add_arguments(p)
    p.set_defaults(run=evaluate.run)


def _label(commands) -> None:
    from ddpm_app.cli import label

    p = commands.add_parser("label", help="zero-shot labels by CLIP", description="Label images with CLIP, and measure the labels.")
    label.add_arguments(p)
    p.set_defaults(run=label.run)


def _encode(commands) -> None:
    from ddpm_app.cli import encode

    encode.add_parsers(commands)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ddpm_app", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    args = argparse.Namespace(command="")
    try:
        for add in (_sample, _noise, _encode, _label, _evaluate, _models, _runs, _bench, _toy):
            add(commands)
        args = parser.parse_args(argv)
        code = args.run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # `| head` has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains once more as it ends
        return 141
    except (ValueError, OSError) as error:  # CheckpointError and PictureError are ValueErrors
        # of a move's two names the second is the one people know; the first is a temporary one
        name = isinstance(error, OSError) and (error.filename2 or error.filename)
        says = f"{name}: {error.strerror}" if name else " ".join(str(error).split())
        print(f"ddpm_app {args.command}: {says}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"ddpm_app {args.command}: stopped".replace(" :", ":"), file=sys.stderr)
        return 130
