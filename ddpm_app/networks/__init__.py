"""The networks and how they run: nn.Modules, no files and no sampling.

unet_config.py  the U-Net's configuration and presets, without torch
unet.py         the U-Net of the image models
resnet.py       residual classifiers, plain and noise-aware
mlp.py          the small networks of the toy lab, alone or many at once
ema.py          averages of weights during training
openvino.py     the U-Net in OpenVINO, int8 or float32, for CPUs without bf16
device.py       the choice of device and precision, and a network prepared for inference
"""
