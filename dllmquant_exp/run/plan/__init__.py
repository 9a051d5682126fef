"""`python -m dllmquant_exp plan`: how long a sweep is going to take, counted and not run.

requests  token-forwards of a task, from its data or from its known size
forward   seconds of one forward: what finished cells took, else measured here, else stated
cells     the sweep's cells and what they share, with status, time, memory and disk
command   the words of the command line, and what it prints
"""
