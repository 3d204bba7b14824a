"""What every handler shares: friendly errors, a pace the browser can follow."""

from __future__ import annotations

import functools
import html
import inspect
import logging
import secrets
import time

import gradio as gr

log = logging.getLogger("ddpm_app")


def friendly(error: Exception) -> gr.Error:
    """A sentence for the visitor. What we raise ourselves is one already; anything else is logged under an id."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, ValueError):
        return gr.Error(html.escape(str(error)[:400], quote=False), print_exception=False)  # toasts render HTML
    tag = secrets.token_hex(3)
    log.exception("handler failed [%s]", tag, exc_info=error)
    return gr.Error(f"Something went wrong here (it is in the server's log as {tag}).", print_exception=False)


def guarded(handler):
    """Wrap a handler, plain or generator, so that only friendly sentences reach the page."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generator(*args, **kwargs):
            try:
                yield from handler(*args, **kwargs)
            except GeneratorExit:
                raise
            except Exception as error:
                raise friendly(error) from None

        return generator

    @functools.wraps(handler)
    def plain(*args, **kwargs):
        try:
            return handler(*args, **kwargs)
        except Exception as error:
            raise friendly(error) from None

    return plain


class Pace:
    """At most `rate` messages a second: due() tells whether the next one may go."""

    def __init__(self, rate: float = 12.0):
        self._gap, self._last = 1 / rate, 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._gap:
            return False
        self._last = now
        return True


def running(start: gr.Button, stop: gr.Button) -> dict:
    return {start: gr.Button(interactive=False), stop: gr.Button(interactive=True)}


def idle(start: gr.Button, stop: gr.Button) -> dict:
    return {start: gr.Button(interactive=True), stop: gr.Button(interactive=False)}


def wire_run(start: gr.Button, stop: gr.Button, handler, inputs: set, outputs: list, view_id: str):
    """A generator behind a button, with a Stop that closes it at its next step and buttons that always come back.

    view_id: elem_id of the component that shows the run; its JavaScript hears of the stop."""
    event = start.click(
        guarded(handler),
        inputs=inputs,
        outputs=[*outputs, start, stop],
        show_progress="hidden",
        concurrency_limit=4,
        concurrency_id="denoise",
        trigger_mode="once",
        api_visibility="private",
    )
    # .then() does not run after a failure, and the Stop event may write nothing that the cancelled one writes
    event.failure(lambda: idle(start, stop), None, [start, stop], show_progress="hidden", api_visibility="private", queue=False)
    halt = stop.click(None, None, None, cancels=[event], api_visibility="private")
    halt.then(lambda: idle(start, stop), None, [start, stop], show_progress="hidden", api_visibility="private", queue=False)
    tell = f"() => document.dispatchEvent(new CustomEvent('ddpm-stop', {{ detail: '{view_id}' }}))"
    halt.then(None, None, None, js=tell, api_visibility="private")
    return event
