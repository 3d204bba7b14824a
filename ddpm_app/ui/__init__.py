"""The page: layout and wiring only. The only package that imports Gradio.

views/          one file or folder per view; views/__init__.py registers them
components/     parts of the page with their scripts: NAME.py beside NAME.html, NAME.css and NAME.js
forms/          groups of controls, and the settings they hold
shell.py        header, model menu and bottom bar; Shell, what a view is given
glossary.py     the terms of the page, in the Glossary and on hover or tap
events.py       errors as sentences, the message rate, runs with a start and a Stop button
replay.py       pictures of the last few runs, for pages that missed some and for exports
api.py          the HTTP API
theme.py        the theme, the fonts, and the options of launch()
assets/         tokens.css (every colour, font and size), shell.css and shell.js (header, views, glossary, errors), gradio.css, fonts/
examples/       pictures offered below an image input
recordings/     the runs that Watch plays when it opens, made by train/record.py

A view is a folder views/NAME/ or a file views/NAME.py. Its build(shell) lays it out inside its tab. Its components are
components/NAME.py with files of the same name beside it, its tests tests/ui/test_NAME.py. What every view may use:

- Colours, fonts and sizes are variables of assets/tokens.css: var(--ink), var(--noise). On a canvas: css('--ink') of base.js, and
  onThemeChange(draw). A test refuses colours anywhere else.
- A term with its explanation: glossary.term("sigma", "σ") in HTML, term('sigma', 'σ') in a component's script, and
  elem_classes=glossary.explained("guidance") for the label of a Gradio component.
- An error: raise ValueError("one sentence") in a handler wrapped by events.guarded, or begun by wire_run. The page shows the sentence
  under the button or input that caused it: guarded(handler, at="elem_id") names one, otherwise it is the one used last.
- The address: setAddress({c: 'horse', g: 2}) of base.js sets the settings beside ?v=, which the link button copies; readAddress()
  returns them. goTo('create') changes the view, in the browser. document gets `ddpm-view` with the key as detail.
- A view that is not shown is not mounted until it is opened once.
"""

from __future__ import annotations

import os

import gradio as gr

from ddpm_app.studio.studio import Studio
from ddpm_app.ui import api
from ddpm_app.ui.shell import Shell, build_header, connect_model
from ddpm_app.ui.theme import launch_options as launch_options
from ddpm_app.ui.views import VIEWS


def build(studio: Studio) -> gr.Blocks:
    """The whole page. Opening it runs no network: only the config of each checkpoint is read."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # the page stays offline: Gradio reads this before each report
    with gr.Blocks(title="DDPM Studio", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as page:
        model, status = build_header(studio, VIEWS)
        shell = Shell(studio, model, gr.State(""))
        with gr.Tabs(elem_id="views"):
            for view in VIEWS:
                with gr.Tab(view.name, id=view.key, elem_id=f"view-{view.key}"):
                    view.build(shell)
        connect_model(shell, status, page)
        api.build(studio)
    page.queue(default_concurrency_limit=8, max_size=64)
    return page
