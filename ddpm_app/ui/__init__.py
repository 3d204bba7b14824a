"""The page: one file per tab, layout and wiring only. The only package that imports gradio."""

from __future__ import annotations

import html
import os

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported: nothing is asked of the outside

import gradio as gr  # noqa: E402

from ddpm_app.networks.device import describe  # noqa: E402
from ddpm_app.studio.studio import Studio  # noqa: E402
from ddpm_app.ui import api  # noqa: E402
from ddpm_app.ui.forms.sampling import ALL, ANY  # noqa: E402
from ddpm_app.ui.tabs import (
    clip,  # noqa: E402
    denoise,  # noqa: E402
    encode,  # noqa: E402
    evaluate,  # noqa: E402
    forward,  # noqa: E402
    generate,  # noqa: E402
    lab,  # noqa: E402
    models,  # noqa: E402
    train,  # noqa: E402
)
from ddpm_app.ui.theme import launch_options  # noqa: E402, F401


def status_html(studio: Studio, name: str | None) -> str:
    chip = f"{name or 'no model'} · {describe(studio.device)}"
    return f"<span class='chip'>{html.escape(chip)}</span><button type='button' onclick='ddpmTheme()'>Light / dark</button>"


def build(studio: Studio) -> gr.Blocks:
    """The whole page. Opening it runs no network: checkpoints are listed by their config alone."""
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
                last_run = gr.State("")  # the name of this visitor's last grid in store.RUNS
                tabs = [generate.build(studio, model, last_run)]
            with gr.Tab("Denoise", id="denoise"):
                tabs.append(denoise.build(studio, model))
            with gr.Tab("Forward", id="forward"):
                tabs.append(forward.build(studio, model))
            with gr.Tab("CLIP", id="clip"):
                tabs.append(clip.build(studio, model, last_run))
            with gr.Tab("Encode", id="encode"):
                encode.build(studio, model)
            with gr.Tab("Lab", id="lab") as lab_tab:
                lab.build(lab_tab)
            if not os.environ.get("SPACE_ID"):  # a Space's GPU is lent for seconds, and its visitors are strangers
                with gr.Tab("Train", id="train"):
                    train.build(studio)
            with gr.Tab("Evaluate", id="evaluate"):
                evaluate.build(studio, model)
            with gr.Tab("Models", id="models"):
                models.build(studio, model)

        def chosen(name, *labels):
            checkpoint = studio.checkpoints().get(name or "")
            menus = []
            for controls, label in zip(tabs, labels):
                choices = controls.choices(checkpoint)
                # a class that was meant stays; "any" of a model that has learnt none would promise too much
                meant = label in choices and (choices[0] == ANY or label not in (ANY, ALL))
                menus.append(gr.Dropdown(choices=choices, value=label if meant else choices[0]))
            return [status_html(studio, name), *menus]

        menus = [c.label for c in tabs]
        model.change(chosen, [model, *menus], [status, *menus], show_progress="hidden", api_visibility="private", trigger_mode="multiple")
        page.load(lambda: gr.Radio(choices=list(studio.checkpoints())), None, model, show_progress="hidden", api_visibility="private")
        api.build(studio)
    page.queue(default_concurrency_limit=8, max_size=64)
    return page
