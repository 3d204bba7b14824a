#!/usr/bin/env python
"""Open the studio in a browser: python app.py [--port P] [--host H]."""

from __future__ import annotations

import logging
import socket
import sys
import threading

from ddpm_app.flags import Parser


def check_address(host: str | None, port: int | None) -> None:
    """Raise ValueError, in one sentence, if nothing can listen there."""
    if port is not None and not 1 <= port <= 65535:
        raise ValueError(f"--port is {port}; a whole number from 1 to 65535 is accepted")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host or "127.0.0.1", port or 0, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError):
        raise ValueError(f"--host {host} is not known; an address of this machine is accepted, such as 127.0.0.1 or 0.0.0.0") from None
    with socket.socket(family, kind, protocol) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(address)
        except OSError as error:
            place = f"--host {host or '127.0.0.1'}" + (f" --port {port}" if port else "")
            raise ValueError(f"{place} cannot be used ({error.strerror}); another one may be free") from None


def main(argv: list[str] | None = None) -> int:
    parser = Parser(prog="app.py", description="DDPM Studio in a browser.")
    parser.add_argument("--port", type=int, default=None, help="TCP port (default: the first free one from 7860)")
    parser.add_argument("--host", default=None, help="address to listen on; 0.0.0.0 for every interface (default 127.0.0.1)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default auto)")
    parser.add_argument("--backend", default="auto", help="auto, torch, openvino: what computes the network (default auto)")
    parser.add_argument("--open", action="store_true", help="open a browser window too")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        check_address(args.host, args.port)
        print("DDPM Studio starts, which takes some seconds.", flush=True)
        from ddpm_app.studio.studio import Studio
        from ddpm_app.ui import build, launch_options

        studio = Studio(device=args.device, backend=args.backend, convert=True)
        threading.Thread(target=studio.prepare, args=(studio.default(),), daemon=True).start()
        page = build(studio)
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
