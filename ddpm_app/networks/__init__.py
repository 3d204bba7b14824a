"""The networks and how they run: nn.Modules, no files and no sampling.

unet_config.py  the U-Net's configuration and presets, without torch
unet.py         the U-Net of the image models
resnet.py       residual classifiers, plain and noise-aware
mlp.py          the small networks of the toy lab, alone or many at once
ema.py          averages of weights during training
device.py       the choice of device and precision, and a network prepared for inference
"""
