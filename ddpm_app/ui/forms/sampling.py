"""The sampling controls of Generate, Denoise, Forward and CLIP, and the Request that they describe."""

from __future__ import annotations

import random
from dataclasses import dataclass

import gradio as gr

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.diffusion.samplers import GENERAL_SAMPLERS, SAMPLERS
from ddpm_app.flags import settings_of, whole
from ddpm_app.studio.exports import request_from_settings
from ddpm_app.studio.request import defaults_for, fixed_guidance, settled
from ddpm_app.studio.steering import Steering
from ddpm_app.studio.studio import Request, Studio
from ddpm_app.ui.events import INSTANT
from ddpm_app.ui.glossary import explained

UI_SEED = 2**31 - 1  # what a browser's number field holds without rounding, with room to add the image's index
ANY, ALL, NONE = "any class", "all, one row each", "none (unconditional)"


def class_choices(checkpoint: Checkpoint | None, rows: bool, steering: Steering | None = None) -> list[str]:
    """The entries of the class menu for a checkpoint, the default first. steering: guidance that an unconditional model may use."""
    if checkpoint is None:
        return [NONE]
    conditional = bool(checkpoint.config.network.num_classes)
    classes = steering.offered(checkpoint.config) if steering else checkpoint.config.classes if conditional else ()
    ways = [ANY, *([ALL] if rows else []), *classes]
    return [*ways, NONE] if conditional else [NONE, *ways] if classes else [NONE]


@dataclass
class Controls:
    """The components, and how to read them. `rows`: whether the class menu has ALL. `steering`: see class_choices."""

    model: gr.Dropdown
    label: gr.Dropdown
    guidance: gr.Slider
    sampler: gr.Dropdown
    evaluations: gr.Slider
    n: gr.Slider
    seed: gr.Number
    lock: gr.Checkbox
    grid: gr.Dropdown
    eta: gr.Slider
    churn: gr.Slider
    rescale: gr.Slider
    interval_low: gr.Number
    interval_high: gr.Number
    rows: bool
    studio: Studio
    steering: Steering | None = None

    def choices(self, checkpoint: Checkpoint | None) -> list[str]:
        return class_choices(checkpoint, self.rows, self.steering)

    @property
    def inputs(self) -> set:
        return {c for c in vars(self).values() if isinstance(c, gr.components.Component)}

    def request(self, values: dict, **overrides) -> tuple[Request, dict]:
        """The Request of these values, and the update that shows its seed. Raises ValueError."""
        low, high = values[self.interval_low], values[self.interval_high]
        seed = values[self.seed]
        if not values[self.lock]:
            seed = random.randrange(UI_SEED)
        elif seed is None or not 0 <= seed <= UI_SEED:
            raise ValueError(f"the seed is {seed}; a whole number from 0 to {UI_SEED} is accepted")
        fields = dict(
            checkpoint=str(values[self.model] or ""),
            label={ANY: "any", ALL: "all", NONE: "none"}.get(values[self.label], str(values[self.label])),
            n=whole(values[self.n], "images"),
            guidance=values[self.guidance],
            sampler=str(values[self.sampler]),
            evaluations=whole(values[self.evaluations], "evaluations"),
            grid=str(values[self.grid]),
            eta=values[self.eta],
            churn=values[self.churn],
            rescale=values[self.rescale],
            interval_low=low or 0.0,
            interval_high=high if high else float("inf"),
            seed=whole(seed, "seed"),
        )
        request = Request(**{**fields, **overrides})
        return settled(request, self.studio.checkpoint(request.checkpoint).config), {self.seed: int(seed)}

    def restore(self, settings: dict, studio: Studio) -> dict:
        """Updates that set every control to the settings of a dropped PNG. Raises ValueError."""
        checkpoint = studio.checkpoint(settings.get("checkpoint", ""))
        r = request_from_settings(settings, studio.steering.offered(checkpoint.config))
        label = {"any": ANY, "none": NONE}.get(r.label, r.label)
        if r.seed > UI_SEED:
            raise ValueError(f"the image's seed is {r.seed}; the page accepts up to {UI_SEED}, the command line more")
        return {
            self.model: r.checkpoint,
            self.label: gr.Dropdown(choices=self.choices(checkpoint), value=label),
            self.guidance: r.guidance,
            self.sampler: gr.Dropdown(choices=sampler_choices(bool(checkpoint.config.tuned_for)), value=r.sampler),
            self.evaluations: r.evaluations,
            self.n: 1,
            self.seed: r.seed,
            self.lock: True,
            self.grid: r.grid,
            self.eta: r.eta,
            self.churn: r.churn,
            self.rescale: r.rescale,
            self.interval_low: r.interval_low,
            self.interval_high: None if r.interval_high == float("inf") else r.interval_high,
        }

    @property
    def restored(self) -> list:
        """The components that restore() updates."""
        return [c for c in vars(self).values() if isinstance(c, gr.components.Component)]


def sampler_choices(tuned: bool = False) -> list[tuple[str, str]]:
    """(text of the menu, name) of the samplers for a model. tuned: with those that are for models tuned to few evaluations only."""
    return [(s.blurb.partition(":")[0], name) for name, s in (SAMPLERS if tuned else GENERAL_SAMPLERS).items()]


GUIDANCE_INFO = "Follows the class clearly. 1 is off, 1.5 to 3 is best."


def model_updates(checkpoint: Checkpoint | None, was_tuned: bool, evaluations: int) -> tuple[dict, dict, dict]:
    """Updates of the guidance, the sampler and the evaluations when this model is chosen. The values change where the model has its own
    defaults, or where the model before it had; evaluations: those of a model without its own."""
    if checkpoint is None:
        return gr.skip(), gr.skip(), gr.skip()
    config = checkpoint.config
    own = {"guidance": Request.guidance, "sampler": Request.sampler, "evaluations": evaluations} | defaults_for(config)
    values = {k: {"value": v} for k, v in own.items()} if config.tuned_for or was_tuned else dict.fromkeys(own, {})
    return (
        gr.Slider(interactive=not config.tuned_for, info=fixed_guidance(config).capitalize() or GUIDANCE_INFO, **values["guidance"]),
        gr.Dropdown(choices=sampler_choices(bool(config.tuned_for)), **values["sampler"]),
        gr.Slider(**values["evaluations"]),
    )


def bounds(field: str, cls: type = Request) -> tuple[float, float]:
    """The lowest and the highest accepted value of a field of a settings class."""
    setting = settings_of(cls)[field]
    return setting.low, setting.high


def build_controls(
    studio: Studio,
    model: gr.Dropdown,
    *,
    n: int,
    most: int,
    rows: bool = True,
    evaluations: int = Request.evaluations,
    can_unlock: bool = True,
    steered: bool = False,
) -> Controls:
    """Lay out the controls in the current column.

    n, most         default and largest number of images
    rows            whether the class menu has ALL
    can_unlock      whether every run draws a new seed unless the seed is locked
    steered         whether guidance by a classifier lets an unconditional model offer classes
    """
    first = studio.checkpoints().get(model.value) if model.value else None
    steering = studio.steering if steered else None
    choices = class_choices(first, rows, steering)
    own = {"sampler": Request.sampler, "evaluations": evaluations, "guidance": Request.guidance}
    fixed = fixed_guidance(first.config) if first else ""
    own |= defaults_for(first.config) if first else {}
    with gr.Group():
        label = gr.Dropdown(choices, value=choices[0], label="Class")
        guidance = gr.Slider(
            *bounds("guidance"), value=own["guidance"], step=0.1, label="Guidance scale s",
            info=fixed.capitalize() or GUIDANCE_INFO, interactive=not fixed, elem_classes=explained("guidance"),
        )  # fmt: skip
        sampler = gr.Dropdown(
            sampler_choices(bool(fixed)), value=own["sampler"], label="Sampler", info=SAMPLERS[own["sampler"]].blurb,
            elem_classes=explained("fast-samplers"),
        )  # fmt: skip
        steps = gr.Slider(
            *bounds("evaluations"), value=own["evaluations"], step=1, label="Evaluations",
            info="How often the network runs for each picture.", elem_classes=explained("evaluation"),
        )  # fmt: skip
        count = gr.Slider(1, most, value=n, step=1, label="Images")
    with gr.Row(elem_classes="seed-row"):
        seed = gr.Number(0, label="Seed", precision=0, min_width=110, scale=3, elem_classes=explained("seed"))
        lock = gr.Checkbox(not can_unlock, label="Lock", min_width=70, scale=1, elem_classes="seed-lock", visible=can_unlock)
        dice = gr.Button("⚄", elem_classes="icon-button seed-dice", min_width=44, scale=0)
    with gr.Accordion("Advanced", open=False):
        grid = gr.Dropdown(
            list(settings_of(Request)["grid"].choices), value=Request.grid, label="Grid",
            info="Noise levels visited; auto takes the sampler's own.",
        )  # fmt: skip
        eta = gr.Slider(
            *bounds("eta"),
            value=Request.eta,
            step=0.05,
            label="eta",
            info="DDIM only: 0 is deterministic, 1 is DDPM.",
            elem_classes=explained("ddim"),
        )
        churn = gr.Slider(
            *bounds("churn"), value=Request.churn, step=1, label="churn",
            info="Heun only: S_churn, fresh noise on the way.",
        )  # fmt: skip
        rescale = gr.Slider(
            *bounds("rescale"), value=Request.rescale, step=0.05, label="Guidance rescale",
            info="Pulls contrast back at large s.",
        )  # fmt: skip
        with gr.Row():
            low = gr.Number(0, label="Guide above σ", minimum=0, min_width=90, elem_classes=explained("sigma"))
            high = gr.Number(None, label="up to σ", minimum=0, min_width=90, placeholder="∞")
    model.change(
        lambda name, method: model_updates(studio.checkpoints().get(name or ""), SAMPLERS[method].tuned, evaluations),
        [model, sampler], [guidance, sampler, steps], **INSTANT,
    )  # fmt: skip
    sampler.change(
        lambda name: gr.Dropdown(info=SAMPLERS[name].blurb),
        sampler, sampler, **INSTANT,
    )  # fmt: skip
    dice.click(lambda: random.randrange(UI_SEED), None, seed, **INSTANT)
    return Controls(model, label, guidance, sampler, steps, count, seed, lock, grid, eta, churn, rescale, low, high, rows, studio, steering)
