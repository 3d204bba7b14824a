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


AT_ONCE = 4  # runs of all visitors and tabs together: they share the processor
_going: set[str] = set()


class Newest:
    """Each visitor's newest run; one that is still on its way ends at its next step when another begins or a Stop was pressed.

    Not Gradio's own `cancels`: what a cancelled run has sent, and its last message, which Gradio sends once more at the end, may
    reach the browser after what the Stop showed, and nothing would come to put that right."""

    def __init__(self, most: int = 500):
        self._runs: OrderedDict[str, str] = OrderedDict()
        self._most = most

    def begin(self, visitor: gr.Request) -> str:
        """A name for a new run. It ends with + if so many others go on that it will have to wait."""
        key, run = str(visitor.session_hash), secrets.token_urlsafe(8) + "+" * (len(_going) >= AT_ONCE)
        self._runs[key] = run
        self._runs.move_to_end(key)
        while len(self._runs) > self._most:
            self._runs.popitem(last=False)
        return run

    def end(self, visitor: gr.Request, run: str = "") -> bool:
        """The visitor's run, if it is this one, shall stop. Returns whether it was on its way."""
        on = self.any(visitor) and (not run or self.is_on(visitor, run))
        if on:
            del self._runs[str(visitor.session_hash)]
        return on

    def any(self, visitor: gr.Request) -> bool:
        return str(visitor.session_hash) in self._runs

    def is_on(self, visitor: gr.Request, run: str) -> bool:
        return self._runs.get(str(visitor.session_hash)) == run

    def follow(self, handler, stopped, token):
        """handler: values -> messages, a generator. Returns the same for Gradio: (values, visitor) -> messages of the run begun as
        values[token], while that is the visitor's newest.

        After a Stop its last message is stopped(), on the way that the earlier ones took, so that none of them outlasts it; a run
        that another has replaced, or that was stopped while it waited, ends with a message that changes nothing. What a run raises
        that is no longer wanted concerns nobody."""

        def run(values: dict, visitor: gr.Request):
            name, begun = values[token], False
            _going.add(name)
            try:
                with closing(handler(values)) as messages:
                    while self.is_on(visitor, name):
                        begun = True
                        message = next(messages, None)
                        if message is None:
                            return
                        if self.is_on(visitor, name):
                            yield message
            except Exception as error:
                if self.is_on(visitor, name):
                    raise
                log.info("a run that was no longer wanted failed: %r", error)
            finally:
                _going.discard(name)
                self.end(visitor, name)
            last = stopped()
            yield {part: gr.skip() for part in last} if self.any(visitor) or not begun else last

        return run


def running(start: gr.Button, stop: gr.Button) -> dict:
    return {start: gr.Button(interactive=False), stop: gr.Button(interactive=True)}


def idle(start: gr.Button, stop: gr.Button) -> dict:
    return {start: gr.Button(interactive=True), stop: gr.Button(interactive=False)}


def wire_run(start: gr.Button, stop: gr.Button, handler, inputs: set, outputs: list, view_id: str, failed=None, stopped=None) -> None:
    """A generator behind a button, with a Stop that closes it at its next step and buttons that always come back.

    view_id: elem_id of the component that shows the run; its JavaScript hears of the stop. failed, stopped: what outputs show after
    an error and after a Stop, {component: value}."""

    def after(shown: dict | None):
        return lambda: {**(shown or {}), **idle(start, stop)}

    wire_runs([(start, handler, inputs)], stop, [*outputs, start, stop], after(stopped), after(failed), view_id)


def wire_runs(
    starts: list[tuple], stop: gr.Button, outputs: list, stopped, failed, view_id: str = "", newest: Newest | None = None
) -> list:
    """wire_run for several runs that share a Stop. starts: (button, handler, inputs) each. stopped, failed: () -> what outputs show
    after a Stop, and after an error. newest: the caller's, if it takes part. Returns the runs' events.

    A run has its name from the click on, so that one which has to wait for others can be stopped, and a Stop ends the run it was meant
    for. The name is kept in the page: what the server keeps of a visitor is read when a run begins, which may be after the next click."""
    newest, quiet = newest or Newest(), {"show_progress": "hidden", "api_visibility": "private"}
    at_once = {"queue": False, "trigger_mode": "multiple", **quiet}
    token = gr.Textbox(visible="hidden", show_label=False, container=False)
    buttons, events = [button for button, _, _ in starts], []

    def clicked(visitor: gr.Request) -> dict:
        return {token: newest.begin(visitor), stop: gr.Button(interactive=True), **{b: gr.Button(interactive=False) for b in buttons}}

    def tell(name: str) -> None:
        if name.endswith("+"):
            gr.Info(f"{AT_ONCE} runs are going on here. Yours begins when one of them ends; Stop takes it back.")

    def halt(name: str, visitor: gr.Request) -> dict:
        was_on, last = newest.end(visitor, name), stopped()
        return last if was_on else {part: gr.skip() for part in last}

    for button, handler, inputs in starts:
        click = button.click(clicked, None, [token, stop, *buttons], **at_once)  # "multiple": "once" would ignore what replaces a run
        shared = {"concurrency_limit": AT_ONCE, "concurrency_id": "denoise", "trigger_mode": "multiple", **quiet}
        events.append(click.then(guarded(newest.follow(handler, stopped, token), failed), {*inputs, token}, outputs, **shared))
        click.then(tell, token, None, concurrency_limit=None, trigger_mode="multiple", **quiet)
    halted = stop.click(halt, token, outputs, **at_once)  # at once, whatever the run is busy with
    if view_id:
        js = f"() => document.dispatchEvent(new CustomEvent('ddpm-stop', {{ detail: '{view_id}' }}))"
        halted.then(None, None, None, js=js, api_visibility="private")
    return events
