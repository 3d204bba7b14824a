"""Networks that classify or describe images: trained here, loaded from a directory, applied to tensors.

classifier.py      a trained classifier, plain or noise-aware: loading, saving, probabilities
training.py        training and measuring it
metrics.py         numbers from a classifier's probabilities: agreement, calibration
clip.py            a CLIP by name: the one that ships, or one that open_clip publishes
clip_tower.py      our residual network as the image tower of an open_clip model
clip_scores.py     prompts; similarities, matching, ranking
clip_training.py   training and measuring the CLIP that ships
captions.py        captions of CIFAR-10 from the search terms in its file names
card.py            the model cards of classifiers and CLIP
"""
