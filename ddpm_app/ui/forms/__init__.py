"""Groups of controls, and the settings that they add up to.

sampling.py         the sampling controls of Generate, Denoise, Forward and CLIP
steering.py         CLIP guidance, classifier guidance, re-ranking
image_source.py     where an image to encode comes from
training.py         the settings of a training run
"""
