"""Measurements inside a model while it decodes, behind Figures 1-6, 9 and 10.

command             `figures ...`: measure once, keep under <runs_dir>/figures, draw from there
arguments           the command's settings, with ranges and help
probe               one model's measurements: settings, and the experiments that they compose
decodes             the full-precision model, prompts and their decodes, which all figures share
measurement         arrays, and means and ratios with intervals, which claims need

block_outputs       Figures 1 and 6: the first block's output and its feed-forward network
logit_error         Figure 2: error of quantized models over the steps of a decode
attention_maps      Figures 3 and 5: softmax maps and values
error_propagation   Figure 4: one decode, and how far noise at one position reaches
linear_sensitivity  Figure 9: one linear quantized at a time
outliers            Figure 10: large channels and massive tokens, by kind of tensor and block

reporting/figures/catalog.yaml says which probe measures a figure, and which settings it reads.
"""
