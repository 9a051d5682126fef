"""Speed of a model's decodes and memory that they take, in full precision and in low bits.

workload        the work that is timed: a shape, its quantization, the responses
full_precision  the yardstick: the fastest full precision that this machine has
low_bits        the packed model, loaded or random, with everything else in 16 bits
machine         the machine's abilities that decide speed
timing          interleaved rounds, medians and their spread
memory          bytes of weights, counted and held
parts           where the time of a decode goes
measure         `measure_speed(workload)`: one model side by side, as a plain record

Knows nothing of Hydra or of result files.
"""
