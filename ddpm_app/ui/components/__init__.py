"""Parts of the page with their style and script. Module NAME.py reads NAME.html, NAME.css and NAME.js beside it.

base.py             Component, which finds those files; base.js comes before every script
image_grid.py       generated images, live, with settings and PNG of each
watch.py            a run from noise to pictures or points: a recording, or a live run; its scripts are watch_*.js
player.py           frames of a denoising run, played, scrubbed, exported
noise_view.py       a picture that dissolves into noise
results.py          measured numbers, their protocols and the trade-off curve
plane.py            points, particles and fields of the lab
point_clouds.py     three ways to a class, side by side
experiment.py       progress, plots and table of an experiment of the lab
rate_curve.py       a progressive code while it is received
strip.py            the images of an interpolation
run_view.py         training runs and their curves
time_machine.py     the same noise at every snapshot of a run
clip_table.py       CLIP's labels and similarities of images
model_card.py       facts and measured numbers of a checkpoint
upload.py           an image input whose files images/decode.py decodes
"""
