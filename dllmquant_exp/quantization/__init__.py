"""Quantization of a transformer's linear layers, embedding, head and attention.

method.py says what a method is; its steps are nearest.py, gptq.py, awq.py and rotation.py.
pipeline.py applies a method to a model. quantizers.py holds the arithmetic, linear.py and
attention.py what runs afterwards, packed.py its integer form, iaaq.py the search for V's scale.
"""
