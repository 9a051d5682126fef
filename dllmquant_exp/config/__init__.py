"""From Hydra's composition to one checked experiment."""
