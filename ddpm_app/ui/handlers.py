"""What every handler shares: friendly errors, a pace the browser can follow."""

from __future__ import annotations

import functools
import html
import inspect
import logging
import secrets
import time
from collections import OrderedDict
from contextlib import closing

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


def guarded(handler, last=None):
    """Wrap a handler, plain or generator, so that only friendly sentences reach the page.

    last: () -> what a generator that fails still sends, before its sentence. Not a .failure() of the event: that one is another
    request, which may be answered after what the next run has begun to show."""
    if inspect.isgeneratorfunction(handler):

        @functools.wraps(handler)
        def generator(*args, **kwargs):
            try:
                yield from handler(*args, **kwargs)
            except GeneratorExit:
                raise
            except Exception as error:
                if last is not None:
                    yield last()
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


class Newest:
    """Each visitor's newest run; one that is still on its way ends at its next step when another begins or a Stop was pressed.

    Not Gradio's own `cancels`: what a cancelled run has sent, and its last message, which Gradio sends once more at the end, may
    reach the browser after what the Stop showed, and nothing would come to put that right."""

    def __init__(self, most: int = 500):
        self._runs: OrderedDict[str, str] = OrderedDict()
        self._most = most

    def begin(self, visitor: gr.Request) -> str:
        """A name for a new run."""
        key, run = str(visitor.session_hash), secrets.token_urlsafe(8)
        self._runs[key] = run
        self._runs.move_to_end(key)
        while len(self._runs) > self._most:
            self._runs.popitem(last=False)
        return run

    def end(self, visitor: gr.Request) -> None:
        """What is on its way shall stop."""
        self._runs.pop(str(visitor.session_hash), None)

    def is_on(self, visitor: gr.Request, run: str) -> bool:
        return self._runs.get(str(visitor.session_hash)) == run

    def follow(self, handler, stopped):
        """handler: values -> messages, a generator. Returns the same for Gradio: (values, visitor) -> messages, the newest run's only.

        After a Stop its last message is stopped(), on the way that the earlier ones took, so that none of them outlasts it; a run
        that another has replaced ends with a message that changes nothing. What such a run raises concerns nobody any more."""

        def run(values: dict, visitor: gr.Request):
            name = self.begin(visitor)
            try:
                with closing(handler(values)) as messages:
                    for message in messages:
                        if not self.is_on(visitor, name):
                            break
                        yield message
                    else:
                        return
            except Exception as error:
                if self.is_on(visitor, name):
                    raise
                log.info("a run that was no longer wanted failed: %r", error)
            last = stopped()
            yield {part: gr.skip() for part in last} if str(visitor.session_hash) in self._runs else last

        return run


def running(start: gr.Button, stop: gr.Button) -> dict:
    return {start: gr.Button(interactive=False), stop: gr.Button(interactive=True)}


def idle(start: gr.Button, stop: gr.Button) -> dict:
    return {start: gr.Button(interactive=True), stop: gr.Button(interactive=False)}


def wire_run(start: gr.Button, stop: gr.Button, handler, inputs: set, outputs: list, view_id: str, failed: dict | None = None):
    """A generator behind a button, with a Stop that closes it at its next step and buttons that always come back.

    view_id: elem_id of the component that shows the run; its JavaScript hears of the stop. failed: what outputs show after an error."""

    def rest() -> dict:
        return idle(start, stop)

    wire_runs([(start, handler, inputs)], stop, [*outputs, start, stop], rest, lambda: {**(failed or {}), **rest()}, view_id)


def wire_runs(starts: list[tuple], stop: gr.Button, outputs: list, stopped, failed, view_id: str = "") -> list:
    """wire_run for several runs that share a Stop. starts: (button, handler, inputs) each. stopped, failed: () -> what outputs show
    after a Stop, and after an error. Returns the events of the buttons."""
    newest, quiet = Newest(), {"show_progress": "hidden", "api_visibility": "private"}
    # "multiple": a second click replaces what the first began, where "once" would ignore it
    shared = {"concurrency_limit": 4, "concurrency_id": "denoise", "trigger_mode": "multiple", **quiet}
    events = [button.click(guarded(newest.follow(h, stopped), failed), inputs, outputs, **shared) for button, h, inputs in starts]
    halt = stop.click(newest.end, None, None, trigger_mode="multiple", queue=False, **quiet)
    halt.then(stopped, None, outputs, queue=False, **quiet)  # at once, whatever the run is busy with
    if view_id:
        tell = f"() => document.dispatchEvent(new CustomEvent('ddpm-stop', {{ detail: '{view_id}' }}))"
        halt.then(None, None, None, js=tell, api_visibility="private")
    return events
