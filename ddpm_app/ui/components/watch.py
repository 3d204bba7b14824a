"""Watch: a run from noise to pictures or points, played in the browser. It opens with a recording; a live run may replace it."""

from __future__ import annotations

import json

from ddpm_app.paths import RECORDINGS as FOLDER
from ddpm_app.studio.recordings import animation_frames
from ddpm_app.ui.components.base import Component
from ddpm_app.ui.components.player import encoded_animation, frames_missing
from ddpm_app.ui.replay import RECORDINGS

SUBJECTS = ("photos", "digits", "points")
ADDRESS = "recordings"  # where the page serves the folder of recordings


def descriptions() -> dict[str, dict]:
    """The description of each recording that there is."""
    return {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in SUBJECTS if (FOLDER / f"{name}.json").is_file()}


def export_animation(query: dict) -> dict:
    """{"data": base64, "type": MIME, "note": size} of a run of pictures as GIF, WebP or MP4, or {"error": one sentence}.

    query["run"]: the name of a live run, or "recording:" and the subject of a recording. The query may hold any value."""
    query = query if isinstance(query, dict) else {}
    run, known = query.get("run"), descriptions()
    subject = run.removeprefix("recording:") if isinstance(run, str) and run.startswith("recording:") else None
    if subject in known and known[subject]["kind"] == "pictures":
        noise, guesses, description = (
            (FOLDER / f"{subject}-noise.png").read_bytes(),
            [(FOLDER / f"{subject}.jpg").read_bytes()],
            known[subject],
        )
    elif recording := RECORDINGS.get(run):
        noise, guesses, description = recording.frames[0], recording.frames[1:], recording.meta[0]
    else:
        return {"error": "This run is no longer kept; run it live again."}
    return encoded_animation(query.get("kind"), *animation_frames(noise, guesses, description))


class Watch(Component):
    """The player. Its value is a message of a live run; the recordings come as files."""

    description = "New frames of a live run: run id, first index, x_T and the predicted x0 of each level."
    scripts = ("watch_texts", "watch_levels", "watch_pictures", "watch_points", "watch_track", "watch_live", "watch_hands")
    server_functions = (frames_missing, export_animation)

    def __init__(self, **options):
        super().__init__(recordings=descriptions(), folder=ADDRESS, **options)
