"""Quantization of a transformer's linear layers. Knows tensors and models, no configuration tool.

quantizers.py holds the arithmetic, linear.py the layer, pipeline.py the methods.
"""
