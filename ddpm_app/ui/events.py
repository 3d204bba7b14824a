"""What event handlers share: errors as sentences, a limited message rate, runs with a start and a Stop button."""

from __future__ import annotations

import functools
import html
import inspect
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import closing

import gradio as gr

log = logging.getLogger("ddpm_app")
HIDDEN = {"show_progress": "hidden", "api_visibility": "private"}  # of an event: no spinner, not in the API
INSTANT = {**HIDDEN, "queue": False}  # for handlers that return immediately


def friendly(error: Exception, at: str = "") -> gr.Error:
    """The error as a sentence for the visitor. The program's ValueErrors are sentences already; other errors are logged under an id.

    at: elem_id of the button or input under which the page shows the sentence; by default the one that the visitor used last."""
    if isinstance(error, gr.Error):
        return error
    if isinstance(error, ValueError):
        text = html.escape(str(error)[:400], quote=False)  # toasts render HTML
    else:
        tag = secrets.token_hex(3)
        log.exception("handler failed [%s]", tag, exc_info=error)
        text = f"Something went wrong here (it is in the server's log as {tag})."
    if at:
        text = f'<span data-at="{at}">{text}</span>'  # assets/shell.js moves the sentence below this button
    return gr.Error(text, duration=None, print_exception=False)


def guarded(handler: Callable, last: Callable[[], dict] | None = None, at: str = "") -> Callable:
    """Wrap a handler, a function or a generator, so that the page gets every error as a sentence.

    at: see friendly
    last: () -> the message that a failing generator sends before its error. The event's own .failure() would be another request,
    whose answer may arrive after the first messages of the next run."""
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
                raise friendly(error, at) from None

        return generator

    @functools.wraps(handler)
    def plain(*args, **kwargs):
        try:
            return handler(*args, **kwargs)
        except Exception as error:
            raise friendly(error, at) from None

    return plain


class Throttle:
    """At most `rate` messages a second: due() is True when the next one may be sent."""

    def __init__(self, rate: float = 12.0):
        self._gap, self._last = 1 / rate, 0.0

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._gap:
            return False
        self._last = now
        return True


AT_ONCE = 4  # runs at the same time, of all visitors and tabs: they share the processor
active_runs: set[str] = set()  # names of the runs whose handlers are running


class NewestRuns:
    """The newest run of each visitor. An earlier run that is still active ends at its next step, and so does a stopped one.

    Gradio's `cancels` is not used: messages of a cancelled run, and its last message, which Gradio repeats at the end, may reach the
    browser after the message of the Stop, and nothing would correct the page afterwards."""

    def __init__(self, most: int = 500):
        self._runs: OrderedDict[str, str] = OrderedDict()
        self._most = most

    def begin(self, visitor: gr.Request) -> str:
        """A name for a new run. It ends with + if AT_ONCE other runs are active, so that this one has to wait."""
        key, run = str(visitor.session_hash), secrets.token_urlsafe(8) + "+" * (len(active_runs) >= AT_ONCE)
        self._runs[key] = run
        self._runs.move_to_end(key)
        while len(self._runs) > self._most:
            self._runs.popitem(last=False)
        return run

    def end(self, visitor: gr.Request, run: str = "") -> bool:
        """Make the visitor's newest run stop, if it is `run` or no run is named. Returns whether a run was stopped."""
        stops = self.has_run(visitor) and (not run or self.is_newest(visitor, run))
        if stops:
            del self._runs[str(visitor.session_hash)]
        return stops

    def has_run(self, visitor: gr.Request) -> bool:
        return str(visitor.session_hash) in self._runs

    def is_newest(self, visitor: gr.Request, run: str) -> bool:
        return self._runs.get(str(visitor.session_hash)) == run

    def follow(self, handler: Callable, stopped: Callable[[], dict], token: object) -> Callable:
        """Make a handler for Gradio that ends when its run is no longer the visitor's newest.

        handler     values -> messages, a generator
        stopped     () -> the last message after a Stop
        token       the component whose value is the name of the run

        The Gradio handler is (values, visitor) -> messages. It sends stopped() on the same connection as the earlier messages, so that
        none of them arrives later. A run that was replaced, or stopped while it waited, ends with a message that changes nothing.
        Errors of a replaced or stopped run are only logged."""

        def run(values: dict, visitor: gr.Request):
            name, begun = values[token], False
            active_runs.add(name)
            try:
                with closing(handler(values)) as messages:
                    while self.is_newest(visitor, name):
                        begun = True
                        message = next(messages, None)
                        if message is None:
                            return
                        if self.is_newest(visitor, name):
                            yield message
            except Exception as error:
                if self.is_newest(visitor, name):
                    raise
                log.info("a replaced or stopped run failed: %r", error)
            finally:
                active_runs.discard(name)
                self.end(visitor, name)
            last = stopped()
            yield unchanged(last) if self.has_run(visitor) or not begun else last

        return run


def unchanged(message: dict) -> dict:
    """A message to the same components that changes none of them."""
    return {part: gr.skip() for part in message}


def run_buttons(start: str, key: str) -> tuple[gr.Button, gr.Button]:
    """The row of a run's buttons, (start, Stop). start: what the first one says. Their elem_ids are KEY-start and KEY-stop."""
    with gr.Row(elem_classes="run-row"):
        return (
            gr.Button(start, variant="primary", elem_id=f"{key}-start", min_width=120),
            gr.Button("Stop", interactive=False, elem_id=f"{key}-stop", min_width=80),
        )


def running(start: gr.Button, stop: gr.Button) -> dict:
    return {start: gr.Button(interactive=False), stop: gr.Button(interactive=True)}


def idle(start: gr.Button, stop: gr.Button) -> dict:
    return {start: gr.Button(interactive=True), stop: gr.Button(interactive=False)}


def wire_run(start: gr.Button, stop: gr.Button, handler, inputs: set, outputs: list, view_id: str, failed=None, stopped=None) -> None:
    """Run a generator on a click of the start button; the Stop button ends it at its next step.

    view_id     elem_id of the component that shows the run; a Stop sends its script a `ddpm-stop` event
    failed      {component: value} after an error
    stopped     {component: value} after a Stop
    """

    def at_rest(values: dict | None):
        return lambda: {**(values or {}), **idle(start, stop)}

    wire_runs([(start, handler, inputs)], stop, [*outputs, start, stop], at_rest(stopped), at_rest(failed), view_id)


def wire_runs(
    starts: list[tuple], stop: gr.Button, outputs: list, stopped, failed, view_id: str = "", newest: NewestRuns | None = None
) -> list:
    """wire_run for several runs that share a Stop. Returns the runs' events.

    starts              (button, handler, inputs) of each run
    stopped, failed     () -> {component: value} after a Stop, after an error
    newest              the caller's NewestRuns, if it begins or ends runs itself

    A run gets its name at the click, so that a waiting run can be stopped, and a late Stop does not end a newer run. The page keeps
    the name: a value on the server would be read when the run begins, which may be after the next click."""
    newest = newest or NewestRuns()
    at_once = {**INSTANT, "trigger_mode": "multiple"}  # "once" would ignore the click that replaces a run
    token = gr.Textbox(visible="hidden", show_label=False, container=False)
    buttons, events = [button for button, _, _ in starts], []

    def clicked(visitor: gr.Request) -> dict:
        return {token: newest.begin(visitor), stop: gr.Button(interactive=True), **{b: gr.Button(interactive=False) for b in buttons}}

    def announce_wait(name: str) -> None:
        if name.endswith("+"):
            gr.Info(f"{AT_ONCE} runs are active. Yours starts when one of them ends; Stop cancels it.")

    def halt(name: str, visitor: gr.Request) -> dict:
        was_active, last = newest.end(visitor, name), stopped()
        return last if was_active else unchanged(last)

    for button, handler, inputs in starts:
        click = button.click(clicked, None, [token, stop, *buttons], **at_once)
        shared = {"concurrency_limit": AT_ONCE, "concurrency_id": "denoise", "trigger_mode": "multiple", **HIDDEN}
        events.append(click.then(
            guarded(newest.follow(handler, stopped, token), failed, str(button.elem_id or "")), {*inputs, token}, outputs, **shared,
        ))  # fmt: skip
        click.then(announce_wait, token, None, concurrency_limit=None, trigger_mode="multiple", **HIDDEN)
    halted = stop.click(halt, token, outputs, **at_once)  # INSTANT is outside the queue: a Stop must not wait for the run that it stops
    if view_id:
        js = f"() => document.dispatchEvent(new CustomEvent('ddpm-stop', {{ detail: '{view_id}' }}))"
        halted.then(None, None, None, js=js, api_visibility="private")
    return events
