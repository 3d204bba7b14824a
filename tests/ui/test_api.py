"""The HTTP API through gradio_client."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from ddpm_app.studio.studio import Request


def test_http_api_returns_the_same_pixels_as_the_studio(app):
    from gradio_client import Client

    studio, url = app
    client = Client(url, verbose=False)
    pngs = client.predict("cifar10-random", "cat", 2, 2.0, "ddim", 4, 11, api_name="/sample")
    frame = list(studio.sample(Request("cifar10-random", "cat", 2, 2.0, "ddim", 4, seed=11)))[-1]
    got = [np.asarray(Image.open(io.BytesIO(base64.b64decode(p.split(",")[1])))) for p in pngs]
    assert all((g.transpose(2, 0, 1) == x).all() for g, x in zip(got, frame.x))
    with pytest.raises(Exception, match="did you mean 'ddim'"):
        client.predict("cifar10-random", "cat", 2, 2.0, "dimm", 4, 11, api_name="/sample")
    assert {m["name"] for m in client.predict(api_name="/models")} >= {"cifar10-random", "mnist-random"}
    assert len(client.predict("mnist-random", 7, 1, 1.5, "ddim", 1, 0, api_name="/sample")) == 1  # a class by its number
    public = {name for name in client.view_api(return_format="dict")["named_endpoints"]}
    assert public == {"/sample", "/models"}
