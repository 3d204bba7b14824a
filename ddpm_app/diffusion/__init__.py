"""The theory of diffusion models: tensors in and out, no files and no networks.

names.py          the names of schedules and prediction types, without torch
schedules.py      noise levels a network is trained on, and the grids of levels a sampler visits
denoiser.py       prediction types, and Denoiser: (x, sigma, label) -> predicted x0 from a network
guidance.py       changes to a denoiser: classifier-free, classifier and CLIP guidance, clipping
samplers.py       the sampling methods; `start` and `Sampler.steps` run each of them
likelihood.py     bits per dimension: the variational bound, and the probability-flow ODE
coding.py         progressive coding: rate and distortion along the reverse process
interpolation.py  paths between two images or seeds in noise space
"""
