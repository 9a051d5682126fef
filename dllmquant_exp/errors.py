"""The base of every refusal, by which input that is wrong is told from a fault of ours."""

BAD_INPUT, FAILED = 2, 1  # exit statuses of a command


class Refusal(ValueError):
    """Input that cannot be used; the message says what was given, where, and what would work.

    Each room has a subclass of its own. A command prints the message and ends with status 2, a
    sweep records it in the cell's result; every other exception is a fault and shows its traceback.
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class ConfigError(Refusal):
    """A configuration that cannot be run."""


def printable(text: str) -> str:
    """`text` with its control characters written out: a file's words may steer a terminal."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )
