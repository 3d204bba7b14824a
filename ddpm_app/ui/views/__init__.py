"""The views of the page, each in a file or folder of its own: its layout, and the handlers that call the program.

watch/              a recorded denoising, and a live one
create/             new images from noise
picture.py          a picture of the visitor's: its forward process, and denoising from there
label.py            CLIP's labels for images
train.py            training runs
lab/                exact and dense: points, bits, scores, models, glossary
"""

from ddpm_app.ui.shell import View
from ddpm_app.ui.views import create, lab, label, picture, train, watch

VIEWS = [
    View("watch", "Watch", watch.build, short="Watch"),
    View("create", "Create", create.build, short="Create"),
    View("picture", "Your picture", picture.build_view, short="Picture"),
    View("label", "Label", label.build_view),
    View("train", "Train", train.build_view, short="Train", has_model=False),
    View("lab", "Lab", lab.build),
]
