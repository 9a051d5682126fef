"""Stop strings: `is_decided` against all continuations over a small alphabet."""

from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllmquant_exp.evaluation.stopping import cut_at_stop, is_decided

texts = st.text("ab", max_size=6)
stop_lists = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=3)


# up to the longest stop string, with a letter that no stop string has
CONTINUATIONS = ["".join(c) for n in range(4) for c in product("abc", repeat=n)]


@settings(deadline=None)
@given(texts, stop_lists)
def test_decided_means_that_no_continuation_changes_the_cut(text: str, stops: list[str]) -> None:
    now = cut_at_stop(text, stops)
    cuts = {cut_at_stop(text + more, stops) for more in CONTINUATIONS}
    assert is_decided(text, stops) == (cuts == {now})


@pytest.mark.parametrize(
    ("text", "stops", "cut"),
    [
        ("    return 1\n\ndef g():", ["\nclass", "\ndef"], "    return 1\n"),
        ("no stop here", ["\ndef"], "no stop here"),
        ("a Question: b Q:", ["Q:", "Question:"], "a "),
    ],
)
def test_the_earliest_stop_wins(text: str, stops: list[str], cut: str) -> None:
    assert cut_at_stop(text, stops) == cut
