"""How fast a model decodes and how much memory it takes, in full precision and in low bits.

settings.py        what is measured
full_precision.py  the yardstick: the fastest full precision that this machine has
half_ends.py       what a low-bit model holds in 16 bits
random_models.py   models of a published shape, with random weights or random 4-bit numbers
machine.py         what of a machine decides speed
timing.py          interleaved rounds, medians and their spread
memory.py          bytes of weights, counted; resident memory, measured
parts.py           where the time of a decode goes
measure.py         one model: what is compared, and the result

Knows nothing of Hydra or of result files.
"""
