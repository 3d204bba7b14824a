"""One training run, from its settings to a model that ships. Nothing here parses a command line or draws a page.

config.py        TrainConfig: everything that decides a run
trainer.py       the training step and loop; saved state and exact resume
compile.py       torch.compile for the network, a CUDA graph for the step
tuning.py        a Trainer that tunes a model to few evaluations
validation.py    the loss of the EMA weights on held-out images
recorder.py      a run from start to end: loading, the loop, validations, samples, snapshots, log
process.py       inside the process of a run: its folder, the queue for the device, pauses, how it ended
distributed.py   several processes that train as one
trackers.py      TensorBoard, Weights & Biases, trackio
probe.py         measures this machine and derives a batch, a learning rate and a predicted end
posthoc_ema.py   an EMA of any length, made after training
runs.py          starts and controls the processes of runs: list, start, pause, stop, resume, fork, delete
card.py          a finished run becomes a shipped model with a model card
"""
