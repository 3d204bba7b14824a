"""The page's own components: HTML, CSS and JavaScript from assets/, fed by plain dictionaries. See each .js for its value."""

from __future__ import annotations

import base64
import io

import gradio as gr
from PIL import Image

from ddpm_app.images import render
from ddpm_app.studio import exports
from ddpm_app.ui.replay import RUNS
from ddpm_app.ui.theme import asset

EXPORTS = {"gif": (render.gif, "image/gif"), "webp": (render.webp, "image/webp"), "mp4": (render.mp4, "video/mp4")}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


# Called from the browser with one untrusted argument each.


def frames_missing(query: dict) -> list:
    """[[index, base64 frame, meta], ...] for at most 400 wanted frames of a run."""
    query = query if isinstance(query, dict) else {}
    run, want = RUNS.get(query.get("run")), query.get("want")
    if run is None or not isinstance(want, list):
        return []
    return [[i, b64(run.frames[i]), run.meta[i]] for i in want[:400] if isinstance(i, int) and 0 <= i < len(run.frames)]


def export_animation(query: dict) -> dict:
    """{"data": base64, "type": MIME, "note": size} of a run as GIF, animated WebP or MP4, or {"error": one sentence}."""
    query = query if isinstance(query, dict) else {}
    run, kind = RUNS.get(query.get("run")), query.get("kind")
    if run is None or not run.frames or kind not in EXPORTS:
        return {"error": "This run is no longer kept; denoise again."}
    encode, mime = EXPORTS[kind]
    frames, captions = thin(run.frames, 240), thin(run.captions, 240)
    pictures = [Image.open(io.BytesIO(f)).convert("RGB") for f in frames]
    try:
        data = encode(pictures, captions=captions)
    except RuntimeError as error:
        return {"error": str(error)}
    return {"data": b64(data), "type": mime, "note": f"{len(frames)} frames, {len(data) / 1e6:.1f} MB"}


def thin(items: list, most: int) -> list:
    """At most `most` items, evenly chosen, first and last always."""
    if len(items) <= most:
        return items
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]


def zip_of(query: dict) -> str | None:
    """base64 ZIP of a finished grid's PNGs."""
    run = RUNS.get(query.get("run")) if isinstance(query, dict) else None
    return b64(exports.images_zip(run.frames)) if run and run.frames else None


class ImageGrid(gr.HTML):
    """Generated images as they form, then each with its settings and its PNG. Triggers recall with {png: base64}."""

    def __init__(self, value: dict | None = None, **kwargs):
        super().__init__(
            value=value or {"run": None},
            html_template=asset("grid.html"),
            css_template=asset("grid.css"),
            js_on_load=asset("grid.js"),
            apply_default_css=False,
            server_functions=[zip_of],
            **kwargs,
        )

    def api_info(self):
        return {"type": "object", "description": "A grid of generated images: run id, labels, base64 PNGs."}


class DenoisePlayer(gr.HTML):
    """x_t and predicted x0 of one or two runs, played at the browser's pace, scrubbed and exported."""

    def __init__(self, fps: int = 20, empty: tuple[str, str] | None = None, **kwargs):
        super().__init__(
            value={"run": None, **({"empty": list(empty)} if empty else {})},
            html_template=asset("player.html"),
            css_template=asset("player.css"),
            js_on_load=asset("player.js"),
            apply_default_css=False,
            server_functions=[frames_missing, export_animation],
            fps=fps,
            **kwargs,
        )

    def api_info(self):
        return {"type": "object", "description": "New frames of a run: run id, first index, total, base64 images, their levels."}


class ForwardView(gr.HTML):
    """A picture dissolving into noise, computed in the browser."""

    def __init__(self, **kwargs):
        super().__init__(
            value={"run": None},
            html_template=asset("forward.html"),
            css_template=asset("forward.css"),
            js_on_load=asset("forward.js"),
            apply_default_css=False,
            **kwargs,
        )

    def api_info(self):
        return {"type": "object", "description": "A picture, its noise and the schedules' alpha_bar."}


class UploadedPicture(gr.Image):
    """An image input that hands on the file's path unopened: pictures.open_picture decides what is safe to decode."""

    def get_block_name(self):
        return "image"

    def preprocess(self, payload):
        return payload.path if payload is not None else None
