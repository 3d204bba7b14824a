"""One file per tab: its layout, and the handlers that call the program with the values of its controls.

generate.py         new images from noise
denoise.py          the reverse process, live
forward.py          the forward process of a picture, and denoising from there
clip.py             CLIP's labels for images
encode.py           the Encode tab:
encode_bits.py          progressive coding
encode_path.py          interpolation
lab.py              diffusion in the plane
lab_experiments.py      its experiments
train.py            training runs
evaluate.py         measured numbers
models.py           checkpoints and their cards
"""
