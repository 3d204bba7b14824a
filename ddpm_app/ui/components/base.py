"""The base class of the page's components. Their files are found by name; their values are dictionaries."""

from __future__ import annotations

import base64
import inspect
from collections.abc import Callable
from pathlib import Path

import gradio as gr

SHARED_SCRIPT = Path(__file__).with_name("base.js")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


class Component(gr.HTML):
    """A part of the page. Module NAME.py reads NAME.html, NAME.css and NAME.js beside it; a file that does not exist is left out.

    description         one line about the value, for the API's schema
    scripts             names of further scripts, NAME.js, that come before the component's own
    server_functions    functions on the server that the component's script may call; each takes one untrusted dictionary

    Each .js begins with a comment about the value that it reads. base.js comes before each of them, with shared functions.
    """

    description = "HTML"
    scripts: tuple[str, ...] = ()
    server_functions: tuple[Callable, ...] = ()

    def __init__(self, value: object = None, **options):
        place = Path(inspect.getfile(type(self)))
        files = {"html_template": ".html", "css_template": ".css", "js_on_load": ".js"}
        templates = {name: place.with_suffix(suffix).read_text() for name, suffix in files.items() if place.with_suffix(suffix).is_file()}
        if "js_on_load" in templates:
            before = [SHARED_SCRIPT, *(place.with_name(f"{name}.js") for name in self.scripts)]
            templates["js_on_load"] = "".join(script.read_text() for script in before) + templates["js_on_load"]
        options.setdefault("server_functions", list(self.server_functions))
        super().__init__({"run": None} if value is None else value, apply_default_css=False, **templates, **options)

    def api_info(self) -> dict:
        return {"type": "object", "description": self.description}
