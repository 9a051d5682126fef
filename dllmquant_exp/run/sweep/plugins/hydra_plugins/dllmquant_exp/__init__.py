"""What Hydra finds by itself only under this name: a sweeper and launchers.

Hydra imports every module in here whenever it starts, so these import nothing heavy.
"""
