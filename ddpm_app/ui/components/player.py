"""A player of denoising frames: x_t and the predicted x0 of one or two runs, played, scrubbed and exported."""

from __future__ import annotations

import io

from PIL import Image

from ddpm_app.images import render
from ddpm_app.ui.components.base import Component, b64
from ddpm_app.ui.replay import RECORDINGS

EXPORTS = {"gif": (render.gif, "image/gif"), "webp": (render.webp, "image/webp"), "mp4": (render.mp4, "video/mp4")}
MOST_FRAMES = 400  # in one answer
EXPORTED_FRAMES = 240  # in one animation

# Both queries come from the browser and may be any value.


def frames_missing(query: dict) -> list:
    """[[index, base64 frame, meta], ...] of the frames in query["want"] of the run query["run"], at most MOST_FRAMES."""
    query = query if isinstance(query, dict) else {}
    recording, wanted = RECORDINGS.get(query.get("run")), query.get("want")
    if recording is None or not isinstance(wanted, list):
        return []
    known = [i for i in wanted[:MOST_FRAMES] if isinstance(i, int) and 0 <= i < len(recording.frames)]
    return [[i, b64(recording.frames[i]), recording.meta[i]] for i in known]


def export_animation(query: dict) -> dict:
    """{"data": base64, "type": MIME, "note": size} of a run as GIF, animated WebP or MP4, or {"error": one sentence}."""
    query = query if isinstance(query, dict) else {}
    recording = RECORDINGS.get(query.get("run"))
    if recording is None or not recording.frames:
        return {"error": "This run is no longer kept; denoise again."}
    frames, captions = thin(recording.frames, EXPORTED_FRAMES), thin(recording.captions, EXPORTED_FRAMES)
    return encoded_animation(query.get("kind"), [Image.open(io.BytesIO(f)).convert("RGB") for f in frames], captions)


def encoded_animation(kind: object, pictures: list[Image.Image], captions: list[str]) -> dict:
    """The answer of export_animation: an animation of these pictures. kind: comes from the browser."""
    if kind not in EXPORTS:
        return {"error": f"The format is {str(kind)[:20]!r}; {', '.join(EXPORTS)} are accepted."}
    encode, mime = EXPORTS[kind]
    try:
        data = encode(pictures, captions=captions)
    except RuntimeError as error:
        return {"error": str(error)}
    return {"data": b64(data), "type": mime, "note": f"{len(pictures)} frames, {len(data) / 1e6:.1f} MB"}


def thin(items: list, most: int) -> list:
    """At most `most` items, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return items
    return [items[round(k * (len(items) - 1) / (most - 1))] for k in range(most)]


class Player(Component):
    """fps: frames played a second. empty: title and sentence before the first run; default: the template's."""

    description = "New frames of a run: run id, first index, total, base64 images, their levels."
    server_functions = (frames_missing, export_animation)

    def __init__(self, fps: int = 20, empty: tuple[str, str] | None = None, **options):
        super().__init__({"run": None, **({"empty": list(empty)} if empty else {})}, fps=fps, **options)
