"""End of a response: the first stop string in its text. Stop strings are not empty."""

from collections.abc import Sequence


def cut_at_stop(text: str, stops: Sequence[str]) -> str:
    """`text` up to the earliest stop string in it, or all of it."""
    return text[: _first_stop(text, stops)]


def is_decided(text: str, stops: Sequence[str]) -> bool:
    """Whether `cut_at_stop` gives the same for every continuation of `text`.

    A stop string in the text is not enough: another one may begin earlier and end in what is still
    to come. Example: stops "b" and "abc"; "xab" may still become "xabc", cut to "x", not to "xa".
    """
    first = _first_stop(text, stops)
    if first == len(text):
        return False
    for stop in stops:
        for start in range(max(0, len(text) - len(stop) + 1), first):
            if stop.startswith(text[start:]):
                return False
    return True


def _first_stop(text: str, stops: Sequence[str]) -> int:
    return min((at for stop in stops if (at := text.find(stop)) >= 0), default=len(text))
