"""The command line: `python -m ddpm_app COMMAND`. One file a command, with add_arguments(parser) and run(args) -> exit code; they
parse, call and print only.

main.py             the list of commands; imports the chosen one; errors become one sentence and exit code 2
sample.py           images from noise
noise.py            the forward process on an image
code.py             bits per dimension, rate and distortion of images
interpolate.py      images between two images or two seeds
label.py            zero-shot labels by CLIP
agreement.py        `evaluate --preset agreement` and train/judge.py
progress.py         progress of long work, on stderr
evaluate.py         measured numbers of a checkpoint or of images
models.py           the checkpoints on this machine
runs.py             training runs
bench.py            speed of this machine
toy.py              the 2-D lab; toy_sample.py is its `sample`
train.py            train/train_unet.py
tune_few.py         train/tune_few.py
ship.py             train/ship.py
quantise.py         train/quantise.py
train_toy.py        train/train_toy.py
study_recipes.py    train/study_recipes.py
measure_steering.py train/measure_steering.py
"""
