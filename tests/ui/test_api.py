"""The HTTP API through gradio_client."""

import base64
import io
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from ddpm_app.paths import PROJECT
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


@pytest.mark.skipif(not shutil.which("curl") or not shutil.which("bash"), reason="needs curl and bash")
def test_the_curl_example_of_the_readme_saves_the_image_of_the_studio(app, tmp_path):
    studio, url = app
    lines = [line.strip() for line in (PROJECT / "README.md").read_text().splitlines() if "curl" in line and line.startswith("    ")]
    script = "\n".join(lines).replace("http://127.0.0.1:7860", url.rstrip("/")).replace('"mnist"', '"mnist-random"')
    subprocess.run(["bash", "-c", script], cwd=tmp_path, check=True, timeout=120)
    image, _ = studio.images(Request("mnist-random", "7", 1))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "seven.png")), image[0, :, :, 0])
