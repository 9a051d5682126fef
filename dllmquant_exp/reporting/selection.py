"""The names of comparable where figures and speed still look for them."""

from dllmquant_exp.reporting.comparable import ModelResults, bits_text, model_results

__all__ = ["ModelResults", "bits_text", "model_results"]
