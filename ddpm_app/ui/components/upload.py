"""An image input that does not decode its file, and the examples below it."""

from __future__ import annotations

from pathlib import Path

import gradio as gr

EXAMPLES = sorted((Path(__file__).parents[1] / "examples").glob("*.png"))


class UploadedPicture(gr.Image):
    """An image input whose value is the path of the file: images.decode.open_picture checks what is safe to decode."""

    def get_block_name(self):
        return "image"

    def preprocess(self, payload):
        return payload.path if payload is not None else None


def offer_examples(picture: UploadedPicture) -> None:
    if EXAMPLES:
        gr.Examples([str(e) for e in EXAMPLES], picture, label="Examples", cache_examples=False, api_visibility="private")
