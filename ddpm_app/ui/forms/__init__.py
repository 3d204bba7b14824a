"""Groups of controls, and the settings that they hold.

sampling.py         the sampling controls of Generate, Denoise, Forward and CLIP
steering.py         CLIP guidance, classifier guidance, re-ranking
image_source.py     the image to encode: a test image, a file or a sample
training.py         the settings of a training run
"""
