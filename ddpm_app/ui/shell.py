"""What surrounds the views: the header with the tabs, the model menu, the phone's bottom bar, and what every view is given."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import gradio as gr

from ddpm_app.studio.studio import Studio
from ddpm_app.ui.events import HIDDEN
from ddpm_app.ui.forms.sampling import ALL, ANY, Controls

TITLES = {"cifar10": "Photos · CIFAR-10", "mnist": "Digits · MNIST"}  # of shipped models; others go by their names
ICONS = {  # of the bottom bar
    "watch": "M8 5.5v13l10-6.5z",
    "create": "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM16.5 13.5v6M13.5 16.5h6",
    "picture": "M4 5h16v14H4zM4 16l5-5 4 4 3-3 4 4",
    "label": "M4 12V4h8l8 8-8 8zM8 8h.01",
    "train": "M4 5c2 10 6 13 16 13M4 20h16",
    "lab": "M9 4h6M10 4v6l-5 9h14l-5-9V4",
    "more": "M5 12h.01M12 12h.01M19 12h.01",
    "link": "M10 14a4 4 0 0 0 6 .4l3-3a4 4 0 0 0-5.7-5.7L12 7M14 10a4 4 0 0 0-6-.4l-3 3a4 4 0 0 0 5.7 5.7L12 17",
    "moon": "M20 14.5A8.5 8.5 0 0 1 9.5 4 8.5 8.5 0 1 0 20 14.5z",
}


@dataclass
class Shell:
    """What a view's build() gets.

    studio      the use cases
    model       the menu at the top right; its value is the name of the chosen model
    last_run    the name of this visitor's last grid in replay.RECORDINGS, "" before the first
    """

    studio: Studio
    model: gr.Dropdown
    last_run: gr.State
    controls: list[Controls] = field(default_factory=list)

    def follows_model(self, controls: Controls) -> None:
        """Give this class menu the classes of the chosen model, now and whenever another model is chosen."""
        self.controls.append(controls)


@dataclass(frozen=True)
class View:
    """One view of the page.

    key         its name in the address, ?v=key
    name        its tab
    build       lays it out inside its tab
    short       its name in the phone's bottom bar; "" puts it behind More there
    has_model   whether the model menu is shown with it
    """

    key: str
    name: str
    build: Callable[[Shell], None]
    short: str = ""
    has_model: bool = True


def model_choices(studio: Studio) -> list[tuple[str, str]]:
    """(text of the menu, name) of every model."""
    return [(TITLES.get(name, name), name) for name in studio.checkpoints()]


def icon(name: str) -> str:
    return f"<svg viewBox='0 0 24 24' aria-hidden='true'><path d='{ICONS[name]}'/></svg>"


def link(view: View, text: str, inner: str = "") -> str:
    model = "" if view.has_model else " data-model='no'"
    return f"<a href='?v={view.key}' data-view='{view.key}'{model}>{inner}{html.escape(text)}</a>"


def navigation_html(views: list[View]) -> str:
    """The name, the tabs, and the bottom bar that replaces them on a phone."""
    tabs = "".join(("<i></i>" if view.key == "lab" else "") + link(view, view.name) for view in views)
    bar = "".join(link(view, view.short, icon(view.key)) for view in views if view.short)
    more = "".join(link(view, view.name, icon(view.key)) for view in views if not view.short)
    return (
        f"<a class='brand' href='?v={views[0].key}' data-view='{views[0].key}'><canvas aria-hidden='true'></canvas><h1>DDPM Studio</h1></a>"
        f"<nav class='top-tabs' aria-label='Views'>{tabs}</nav>"
        f"<nav class='bottom' aria-label='Views'>{bar}"
        f"<details><summary>{icon('more')}More</summary><div>{more}</div></details></nav>"
    )


def tools_html() -> str:
    def button(does: str, name: str, picture: str) -> str:
        return f"<button type='button' class='round' data-do='{does}' title='{name}' aria-label='{name}'>{icon(picture)}</button>"

    return (
        button("link", "Copy a link to this", "link")
        + button("theme", "Light or dark", "moon")
        + "<span class='said' role='status'></span>"
    )


def status_html(studio: Studio, name: str | None) -> str:
    """What a screen reader hears of the chosen model."""
    return f"<span>{html.escape(name or 'no model')} · {html.escape(studio.describe(name or ''))}</span>"


def build_header(studio: Studio, views: list[View]) -> tuple[gr.Dropdown, gr.HTML]:
    """Returns the model menu and the status of the chosen model."""
    plain = {"apply_default_css": False, "min_width": 0}
    with gr.Row(elem_id="header"):
        gr.HTML(navigation_html(views), elem_id="navigation", scale=1, **plain)
        model = gr.Dropdown(
            model_choices(studio), value=studio.default() or None, label="Model", elem_id="model", show_label=False, container=False,
            filterable=False, min_width=0, scale=0,
        )  # fmt: skip
        gr.HTML(tools_html(), elem_id="tools", **plain)
    status = gr.HTML(status_html(studio, studio.default()), elem_id="status", **plain)
    return model, status


def connect_model(shell: Shell, status: gr.HTML, page: gr.Blocks) -> None:
    """Update the status and the class menus for a newly chosen model, and the menu itself when the page is opened."""
    studio, menus = shell.studio, [controls.label for controls in shell.controls]

    def chosen(name, *labels):
        threading.Thread(target=studio.prepare, args=(name or "",), daemon=True).start()
        checkpoint, updates = studio.checkpoints().get(name or ""), []
        for controls, label in zip(shell.controls, labels):
            choices = controls.choices(checkpoint)
            # "any" and "all" stay only where they are the new model's default: it may have no classes
            stays = label in choices and (choices[0] == ANY or label not in (ANY, ALL))
            updates.append(gr.Dropdown(choices=choices, value=label if stays else choices[0]))
        return [status_html(studio, name), *updates]

    shell.model.change(chosen, [shell.model, *menus], [status, *menus], trigger_mode="multiple", **HIDDEN)
    page.load(lambda: gr.Dropdown(choices=model_choices(studio)), None, shell.model, **HIDDEN)
