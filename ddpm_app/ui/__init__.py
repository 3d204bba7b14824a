"""The page: layout and wiring only. The only package that imports Gradio.

tabs/           one file per tab
components/     parts of the page with their scripts: NAME.py beside NAME.html, NAME.css and NAME.js
forms/          groups of controls, and the settings they hold
events.py       errors as sentences, the message rate, runs with a start and a Stop button
replay.py       pictures of the last few runs, for pages that missed some and for exports
api.py          the HTTP API
theme.py        the theme, and the options of launch()
assets/         page.css, the style of everything outside components/
examples/       pictures offered below an image input
"""

from __future__ import annotations

import html
import os

import gradio as gr

from ddpm_app.networks.device import describe
from ddpm_app.studio.studio import Studio
from ddpm_app.ui import api
from ddpm_app.ui.events import HIDDEN
from ddpm_app.ui.forms.sampling import ALL, ANY
from ddpm_app.ui.tabs import clip, denoise, encode, evaluate, forward, generate, lab, models, train
from ddpm_app.ui.theme import launch_options as launch_options


def status_html(studio: Studio, name: str | None) -> str:
    chip = f"{name or 'no model'} · {describe(studio.device)}"
    return f"<span class='chip'>{html.escape(chip)}</span><button type='button' onclick='ddpmTheme()'>Light / dark</button>"


def build(studio: Studio) -> gr.Blocks:
    """The whole page. Opening it runs no network: only the config of each checkpoint is read."""
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # the page stays offline: Gradio reads this before each report
    names = list(studio.checkpoints())
    with gr.Blocks(title="DDPM Studio", analytics_enabled=False, fill_width=True, delete_cache=(600, 3600)) as page:
        with gr.Row(elem_id="header"):
            gr.HTML(
                "<h1>DDPM Studio</h1><p>Watch noise become pictures, and see how.</p>",
                elem_id="brand",
                apply_default_css=False,
                scale=3,
                min_width=240,
            )
            status = gr.HTML(status_html(studio, studio.default()), elem_id="status", apply_default_css=False, scale=2, min_width=240)
        model = gr.Radio(names, value=studio.default() or None, label="Model", elem_id="model-choice", show_label=False, container=False)
        with gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab("Generate", id="generate"):
                last_run = gr.State("")  # the name of this visitor's last grid in replay.RECORDINGS
                controls = [generate.build(studio, model, last_run)]
            with gr.Tab("Denoise", id="denoise"):
                controls.append(denoise.build(studio, model))
            with gr.Tab("Forward", id="forward"):
                controls.append(forward.build(studio, model))
            with gr.Tab("CLIP", id="clip"):
                controls.append(clip.build(studio, model, last_run))
            with gr.Tab("Encode", id="encode"):
                encode.build(studio, model)
            with gr.Tab("Lab", id="lab") as lab_tab:
                lab.build(lab_tab)
            if not os.environ.get("SPACE_ID"):  # a Space gives its GPU for seconds only, and to every visitor
                with gr.Tab("Train", id="train"):
                    train.build(studio)
            with gr.Tab("Evaluate", id="evaluate"):
                evaluate.build(studio, model)
            with gr.Tab("Models", id="models"):
                models.build(studio, model)

        def model_chosen(name, *labels):
            """Update the status line and the class menu of every tab for the new model."""
            checkpoint = studio.checkpoints().get(name or "")
            menus = []
            for tab, label in zip(controls, labels):
                choices = tab.choices(checkpoint)
                # "any" and "all" stay only where they are the new model's default: it may have no classes
                stays = label in choices and (choices[0] == ANY or label not in (ANY, ALL))
                menus.append(gr.Dropdown(choices=choices, value=label if stays else choices[0]))
            return [status_html(studio, name), *menus]

        menus = [tab.label for tab in controls]
        model.change(model_chosen, [model, *menus], [status, *menus], trigger_mode="multiple", **HIDDEN)
        page.load(lambda: gr.Radio(choices=list(studio.checkpoints())), None, model, **HIDDEN)
        api.build(studio)
    page.queue(default_concurrency_limit=8, max_size=64)
    return page
