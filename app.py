#!/usr/bin/env python
"""Open the studio in a browser: python app.py [--port P] [--host H]."""

from __future__ import annotations

import argparse
import logging
import sys


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="app.py", description="DDPM Studio in a browser.")
    parser.add_argument("--port", type=int, default=None, help="TCP port (default: the first free one from 7860)")
    parser.add_argument("--host", default=None, help="address to listen on; 0.0.0.0 for every interface (default 127.0.0.1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--open", action="store_true", help="open a browser window too")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        from ddpm_app.studio.studio import Studio
        from ddpm_app.ui import build, launch_options

        page = build(Studio(device=args.device))
        _, url, _ = page.launch(
            server_name=args.host, server_port=args.port, inbrowser=args.open, prevent_thread_lock=True, **launch_options()
        )
    except (ValueError, OSError) as error:
        print(f"app.py: {error}", file=sys.stderr)
        return 2
    print(f"DDPM Studio is at {url}  (Ctrl-C ends it)", flush=True)
    try:
        page.block_thread()
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
