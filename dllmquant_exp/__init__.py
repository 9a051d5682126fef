"""Post-training quantization of diffusion language models: run, measure and report.

Data flows one way: config -> model -> quantized model -> evaluation -> result -> tables.
"""

__version__ = "0.1.0"
