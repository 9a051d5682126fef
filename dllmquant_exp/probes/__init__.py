"""What goes on inside a model while it decodes: the measurements behind Figures 1-6 and 9.

settings      what is measured, from the command's words; composed like any experiment
subject       the full-precision model, prompts and their decodes, which all figures share
activations   Figures 1 and 6: the first block's output and its feed-forward network, step by step
accumulation  Figure 2: error of quantized models over the steps of a decode
attention     Figures 3 and 5: softmax maps and values
decode_grid   Figure 4: one decode, and how far noise at one position reaches (noise)
greedy        one step of a decode, for Figures 2 and 4
sensitivity   Figure 9: one linear quantized at a time
numbers       means and ratios with intervals, for claims
record        measure once, write to <runs_dir>/figures; reporting draws from there
"""
