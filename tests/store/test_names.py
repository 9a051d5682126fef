"""Names become folders, lines of tables and cells of spreadsheets: none of them does more."""

import pytest

from dllmquant_exp.errors import ConfigError, Refusal
from dllmquant_exp.store.names import check_name, markdown_text, spreadsheet_text


@pytest.mark.parametrize("name", ["micro_llada", "quarot+tmas", "a", "7b", "模型", "v1.5-x"])
def test_plain_words_are_names(name: str) -> None:
    assert check_name(name, "model.name") == name


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/b", "/etc/x", "a\\b", "~", "-x", "+x", ".hidden", "a b", "a\n",
        "\x1b[2J", "a\x00", "a\r", "\u202ex", "=1+1", "@x", "<b>", "a:b", "a*", "$x", "\ud800",
        None, 7, ["a"], {"a": 1}, True,
    ],
)  # fmt: skip
def test_anything_else_is_refused_in_printable_words(name: object) -> None:
    with pytest.raises(
        ConfigError, match=r"model\.name = .* must be a plain folder name"
    ) as caught:
        check_name(name, "model.name")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a" * 101, "ü" * 51, "a" * 10**6])
def test_names_too_long_for_a_folder_are_called_that(name: str) -> None:
    with pytest.raises(ConfigError, match=r"name too long .* take at most 100") as caught:
        check_name(name, "model.name")
    assert len(str(caught.value)) < 200
    check_name(name[:50], "model.name")


def test_no_refusal_steers_a_terminal() -> None:
    assert str(Refusal("\x1b]0;x\x07 in a file\nand ü")) == "\\x1b]0;x\\x07 in a file\nand ü"


@pytest.mark.parametrize(
    ("cell", "written"),
    [
        ("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"), ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"), ("\t=1", "'\t=1"), ("\r=1", "'\r=1"),
        ("-", "-"), ("-.5", "-.5"), ("+1.2 [-.3, +2.0]", "+1.2 [-.3, +2.0]"), ("-36.0 ±1.2",) * 2,
        ("DLLMQuant+", "DLLMQuant+"), (-1.5, -1.5), (None, None), ("-1e-05", "-1e-05"),
    ],
)  # fmt: skip
def test_a_spreadsheet_runs_no_cell(cell: object, written: object) -> None:
    assert spreadsheet_text(cell) == written


def test_markdown_holds_no_tag() -> None:
    assert (
        markdown_text("<b>x</b> <!-- --> p<.05 < 3 a<b")
        == "&lt;b>x&lt;/b> &lt;!-- --> p<.05 < 3 a&lt;b"
    )
