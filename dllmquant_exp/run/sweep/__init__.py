"""Sweeps: from a command line to jobs, their launchers, and the end of a call."""
