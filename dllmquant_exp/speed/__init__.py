"""How fast a model decodes and how much memory it takes, in full precision and in low bits.

settings.py        what is measured
full_precision.py  the yardstick: the fastest full precision that this machine has
random_models.py   models of a published shape, with random weights or random 4-bit numbers
timing.py          interleaved rounds, medians and their spread
memory.py          bytes of weights, counted; resident memory, measured
measure.py         one model: what is compared, and the result

Knows nothing of Hydra or of result files.
"""
