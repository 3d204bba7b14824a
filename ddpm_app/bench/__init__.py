"""The speed of this machine. A measurement runs what is compared in alternation, in one run, and reports medians.

sampling.py   forward passes, matrix products, and DDIM beside diffusers
training.py   training steps beside a plain PyTorch loop
toy.py        the 2-D lab: a sweep in one computation beside a loop, and training on two moons
"""
