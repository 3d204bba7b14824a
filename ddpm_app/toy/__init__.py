"""The 2-D lab: diffusion of points whose true density is known. Nothing here imports Gradio or argparse.

density.py      mixtures of Gaussians and their exact denoiser
shapes.py       named sets of points, drawn densities, the split into training and test points
points.py       points read from .csv and .npy files
training.py     one network, or all networks of a sweep in one computation
checkpoint.py   a trained toy as a directory
metrics.py      EMD, sliced Wasserstein, MMD; exact ODE likelihood, variational bound
classifier.py   trained and training-free classifiers of points
sweeps.py       the experiments "steps" and "schedules"
experiments.py  the other four experiments, and the table of all six
tables.py       an experiment's rows as CSV and as a table
plots.py        an experiment's rows as SVG and as HTML
playground.py   what the Lab tab shows, as plain numbers
card.py         a toy's measured numbers and its card
release.py      train, measure and save a toy; the toys that ship
"""
