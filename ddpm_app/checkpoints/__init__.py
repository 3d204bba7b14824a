"""Models on disk: a directory with a JSON description and safetensors weights. Pickles are never opened.

checkpoint.py    read_model and save_model for every kind of model; Checkpoint, an image model with its log and card
facts.py         What a list of models says of a checkpoint, as plain values. Loads no weights
measurements.py  the measured numbers that are stored beside a model
hub.py           models fetched from the Hugging Face hub
diffusers.py     conversion from and to diffusers' UNet2DModel
"""
