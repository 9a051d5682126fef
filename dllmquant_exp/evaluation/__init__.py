"""Evaluation: lm-eval tasks asked of a diffusion language model, scored item by item.

Nothing is imported here: whoever reads settings does not wait for lm-eval and its data sets.
"""
