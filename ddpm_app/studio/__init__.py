"""The use cases: a Request in, Frames out."""

from ddpm_app.studio.request import Request
from ddpm_app.studio.studio import Frame, Studio

__all__ = ["Frame", "Request", "Studio"]
