"""Distillation, for every task: a small student learns what a large teacher outputs, for any images at all.

"We train the MobileNet architectures to emulate the outputs of a larger model instead of the ground-truth labels, hence
enabling training from large (and potentially infinite) unlabeled datasets" (paper, section 4.5).
"""
