"""Models on disk: a directory with a JSON description and safetensors weights. Pickles are never opened.

description.py   reads the JSON file of every kind of model; refuses pickles and directories that hold no model
weights.py       read_model and save_model for every kind of model; safetensors and their shards
checkpoint.py    Checkpoint, an image model with its config, log and card; find
facts.py         the facts of a model for lists and cards, without loading torch
measurements.py  the measured numbers that are stored beside a model
hub.py           models fetched from the Hugging Face hub
diffusers.py     conversion from and to diffusers' UNet2DModel
"""
