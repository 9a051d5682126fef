"""The base of every refusal, by which input that is wrong is told from a fault of ours."""

BAD_INPUT, FAILED = 2, 1  # exit statuses of a command


class Refusal(ValueError):
    """Input that cannot be used; the message says what was given, where, and what would work.

    Each room has a subclass of its own. A command prints the message and ends with status 2, a
    sweep records it in the cell's result; every other exception is a fault and shows its traceback.
    """


class ConfigError(Refusal):
    """A configuration that cannot be run."""
