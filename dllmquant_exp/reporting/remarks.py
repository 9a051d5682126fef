"""The names of notes where figures and speed still look for them."""

from dllmquant_exp.reporting.notes import source_notes

__all__ = ["source_notes"]
