"""Post-training quantization of diffusion language models: run, measure and report.

Data flows one way: config -> model -> quantized model -> evaluation -> result -> tables.
"""

import os

# MKL then adds the terms of each product in one order, whatever the number of rows and of threads.
# It reads this at its first product, so it stands here, in front of everything.
os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")

__version__ = "0.1.0"
