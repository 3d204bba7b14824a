"""The speed of this machine. Alternatives are measured in turn, in one run; the reported figures are medians.

sampling.py   forward passes, matrix products, and DDIM compared with diffusers
training.py   training steps compared with a plain PyTorch loop
toy.py        the 2-D lab: a sweep in one computation compared with a loop, and training on two moons
"""
