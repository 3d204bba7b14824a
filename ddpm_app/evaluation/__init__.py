"""Measured numbers of checkpoints and images. Each number is stored and shown with its protocol: how it was measured.

plan.py           what to measure: the metrics and their settings
evaluate.py       measures a plan: samples, then features, then numbers
samples.py        samples of a checkpoint, kept on disk
features.py       features of images: by a classifier, CLIP or Inception
cache.py          tensors on disk, each file with its SHA-256
distances.py      distances between two sets of features; nearest neighbours
image_metrics.py  the metrics of images: distances, classifier, CLIP, copies of training images
bits.py           bits per dimension of test images
protocol.py       the name and the protocol of a number; the reference images
agreement.py      agreement of samples with the requested classes
tradeoff.py       distance against agreement over guidance, evaluations or samplers
snapshots.py      pictures and numbers of a run's snapshots
steering.py       guidance and re-ranking, compared
recipes.py        the study of training recipes
recipes_table.py  the table of that study
"""
