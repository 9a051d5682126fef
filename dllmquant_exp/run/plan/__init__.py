"""What a sweep will take: operations, counted without loading a model, over a machine's speed.

work         operations and how long a machine needs for them
machines     how fast this machine is (measured), or a named GPU (stated)
shapes       the architecture of a checkpoint, without its weights
requests     what a task asks of a model: counted from its data, or its known size
known_sizes  the official evaluation sets, where their data is not at hand
forwards     operations and memory of forward passes
quantizing   operations, memory and disk of quantization
calibrating  the same of calibration sets
on_disk      what earlier calls have left
counting     from a sweep's jobs to estimates of its stages and cells
estimates    these, and their totals
command      `python -m dllmquant_exp plan`
pages        what it prints
"""
