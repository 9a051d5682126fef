"""The embedded models: the micro-world, the training recipe, and the shipped weights."""
