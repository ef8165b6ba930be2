"""Distillation, for every task: a small student learns to answer as a large teacher does, on any pictures at all.

"We train the MobileNet architectures to emulate the outputs of a larger model instead of the ground-truth labels, hence
enabling training from large (and potentially infinite) unlabeled datasets" (paper, section 4.5).

`teachers.py` is where answers come from, `losses.py` what the student is held to, `cache.py` how answers are kept.
"""
