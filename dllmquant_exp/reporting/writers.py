"""The names of render where figures and speed still look for them."""

from dllmquant_exp.reporting.render import Document, Section

__all__ = ["Document", "Section"]
