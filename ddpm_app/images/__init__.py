"""Pixels and image files, without diffusion: what the program reads and writes as images.

pixels.py         uint8 pixels <-> model space
datasets.py       named data sets, .npz files and folders as uint8 tensors
sets.py           a set of images of which only a part is in memory
decode.py         opens uploaded image files safely; square crops
archive.py        unpacks an uploaded ZIP of images
render.py         grids, strips, PNG and JPEG bytes, animations
"""
