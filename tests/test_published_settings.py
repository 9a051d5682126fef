"""conf/README.md's table of settings is what conf and the published values say."""

import settings_table
from settings_table import EQUAL, README, WRONG, Line, lines


def test_the_readme_holds_the_table_of_the_files() -> None:
    text = README.read_text(encoding="utf-8")
    assert text == settings_table.with_section(text), "python tests/settings_table.py"
    assert "<!-- settings: begin -->" in text


def test_no_setting_is_wrong_and_every_family_has_every_task() -> None:
    found = list(lines())
    assert [line for line in found if line.verdict == WRONG] == []
    assert all(line.verdict for line in found)
    assert len({line[:2] for line in found if "," not in line.model}) == 5 * 9
    assert sum(line.verdict == EQUAL for line in found) == 26


def test_a_setting_that_differs_without_a_reason_is_wrong() -> None:
    values = {"source": "a file", "shots": 5, "mc_num": 128, "mask_counts": "halves_to_even"}
    tasks = dict(settings_table._tasks())
    settings = settings_table.resolve_settings("piqa", tasks["piqa"], "llada_base")
    made = list(settings_table._compared("llada_base", "piqa", settings, values, {}))
    equal, *others = made
    assert equal == Line("llada_base", "piqa", "mc_num 128", "the same", "a file", EQUAL)
    assert {(line.ours, line.published, line.verdict) for line in others} == {
        ("shots 0", "shots 5", WRONG),
        ("mask_counts uniform", "mask_counts halves_to_even", WRONG),
    }
