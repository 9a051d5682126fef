"""A sweeper and launchers, which Hydra finds by itself only under this name.

Hydra imports every module in here whenever it starts, so these import nothing heavy.
"""

from omegaconf import OmegaConf

from dllmquant_exp.store.paths import expanded

# For the folders that Hydra makes itself; every process that Hydra runs in imports this.
OmegaConf.register_new_resolver("expanded", lambda path: str(expanded(path)), replace=True)
