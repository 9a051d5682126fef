"""The models: one bidirectional transformer, and checkpoints in the official layouts."""
