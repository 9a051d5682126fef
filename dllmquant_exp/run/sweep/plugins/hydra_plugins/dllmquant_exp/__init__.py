"""A sweeper and launchers, which Hydra finds by itself only under this name.

Hydra imports every module in here whenever it starts, so these import nothing heavy.
"""
