"""The image to encode: from the data's test split, a file, or a sample of the model."""

from __future__ import annotations

import random
from dataclasses import dataclass

import gradio as gr
import numpy as np
import torch
from torch import Tensor

from ddpm_app.checkpoints.checkpoint import Checkpoint
from ddpm_app.flags import whole
from ddpm_app.images.datasets import local_data, local_place
from ddpm_app.images.decode import PictureError, centre_crop, open_picture, to_array
from ddpm_app.studio.studio import Request, Studio
from ddpm_app.ui.components.upload import UploadedPicture, offer_examples
from ddpm_app.ui.events import INSTANT
from ddpm_app.ui.forms.sampling import UI_SEED

TEST, FILE, SAMPLE = "Test image", "Your picture", "A sample of the model"
GIVEN, NONE = "the image's own", "none (unconditional)"


def source_choices(checkpoint: Checkpoint | None) -> list[str]:
    """The kinds of source. Test images only where the model's data are on this machine: the page downloads nothing."""
    return [TEST, FILE, SAMPLE] if checkpoint and local_place(checkpoint.config.data) else [FILE, SAMPLE]


def classes_of(checkpoint: Checkpoint | None) -> list[str]:
    classes = list(checkpoint.config.classes) if checkpoint and checkpoint.config.network.num_classes else []
    return [GIVEN, *classes, NONE] if classes else [NONE]


@dataclass
class ImageSource:
    """The components of one source, and the images they describe."""

    kind: gr.Radio
    index: gr.Number
    upload: UploadedPicture
    seed: gr.Number
    label: gr.Dropdown
    box: gr.Column  # holds all components but label

    @property
    def inputs(self) -> set:
        return {c for c in vars(self).values() if isinstance(c, gr.components.Component)}

    def images(self, values: dict, studio: Studio, name: str, count: int = 1) -> tuple[Tensor, Tensor | None, str, str]:
        """uint8 images (count, C, H, W), their classes (count,) or None, a text about them, and their flags for the command line.

        Raises ValueError, or PictureError for a file."""
        config = studio.checkpoint(name).config
        shape = config.network.image_shape
        kind = values[self.kind]
        if kind == TEST:
            data = local_data(config.data)
            if data is None or tuple(data.images.shape[1:]) != shape:
                raise ValueError(f"the test images of {config.data} are not on this machine; a picture or a sample is accepted")
            first = whole(values[self.index], "the test image's number", 0, len(data) - count)
            where = slice(first, first + count)
            numbers = f"{first}" if count == 1 else f"{first} to {first + count - 1}"
            return data.images[where], data.labels[where], f"{data.name} test {numbers}", f"--test {first}"
        if kind == FILE:
            if not values[self.upload]:
                raise PictureError("There is no picture yet: upload or paste one, or choose an example.")
            picture = to_array(centre_crop(open_picture(values[self.upload]), shape[1], shape[0]))
            return torch.from_numpy(picture.copy())[None], None, "your picture", "--image FILE"
        seed = whole(values[self.seed], "the seed", 0, UI_SEED)
        label = str(values[self.label] or NONE)
        label = {GIVEN: "any", NONE: "none"}.get(label, label)
        image, labels = studio.images(Request(checkpoint=name, label=label, n=1, seed=seed))
        classes = torch.from_numpy(labels) if labels[0] >= 0 else None
        return torch.from_numpy(np.ascontiguousarray(image.transpose(0, 3, 1, 2))), classes, f"a sample, seed {seed}", "--image FILE"

    def class_name(self, values: dict, label_of_image: Tensor | None, classes: tuple[str, ...]) -> str:
        """The class for the network, a name or "none". "The image's own" class is none for a picture without a label."""
        label = str(values[self.label] or NONE)
        if label == GIVEN:
            return classes[int(label_of_image[0])] if label_of_image is not None and classes else "none"
        return "none" if label == NONE else label


def build_source(studio: Studio, model: gr.Dropdown, prefix: str, index: int = 0, title: str = "Image") -> ImageSource:
    """Lay out a source in the current column; its menus change with the model."""
    first = studio.checkpoints().get(model.value) if model.value else None
    kinds, labels = source_choices(first), classes_of(first)
    with gr.Column() as box:
        kind = gr.Radio(kinds, value=kinds[0], label=title, elem_id=f"{prefix}-kind")
        with gr.Row(elem_classes="seed-row", visible=kinds[0] == TEST) as tests:
            number = gr.Number(index, label="Test image", precision=0, minimum=0, min_width=110, scale=3, elem_id=f"{prefix}-index")
            dice = gr.Button("⚄", elem_classes="icon-button seed-dice", min_width=44, scale=0)
        with gr.Column(visible=kinds[0] == FILE) as files:
            upload = UploadedPicture(
                label="Picture", type="filepath", sources=["upload", "clipboard"], format="png", height=190, elem_id=f"{prefix}-picture"
            )
            offer_examples(upload)
        seed = gr.Number(index, label="Seed of the sample", precision=0, minimum=0, visible=kinds[0] == SAMPLE, elem_id=f"{prefix}-seed")
    label = gr.Dropdown(labels, value=labels[0], label="Class told the network", elem_id=f"{prefix}-class")

    def shown(value):
        return gr.Row(visible=value == TEST), gr.Column(visible=value == FILE), gr.Number(visible=value == SAMPLE)

    def follow(name, chosen, chosen_class):
        checkpoint = studio.checkpoints().get(name or "")
        kinds, labels = source_choices(checkpoint), classes_of(checkpoint)
        kind_now = chosen if chosen in kinds else kinds[0]
        menu = gr.Dropdown(choices=labels, value=chosen_class if chosen_class in labels else labels[0])
        return gr.Radio(choices=kinds, value=kind_now), menu, *shown(kind_now)

    parts = [tests, files, seed]
    kind.change(shown, kind, parts, **INSTANT)
    model.change(follow, [model, kind, label], [kind, label, *parts], trigger_mode="multiple", **INSTANT)

    def another(name):
        checkpoint = studio.checkpoints().get(name or "")
        data = local_data(checkpoint.config.data) if checkpoint else None
        return random.randrange(len(data)) if data else gr.skip()

    dice.click(another, model, number, **INSTANT)
    return ImageSource(kind, number, upload, seed, label, box)
