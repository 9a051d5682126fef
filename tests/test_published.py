"""The page and the picture of results are what the kept results say, and these are whole."""

import re
import shutil
import tarfile
from pathlib import Path
from xml.etree import ElementTree

import published
import pytest

from dllmquant_exp.reporting.figures.recordings import recorded_figures
from dllmquant_exp.reporting.frame import lines_of, read_sweep
from dllmquant_exp.store.results import TABLES_SWEEP, ResultError


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("published")
    published.unpack(published.KEPT, folder)
    return folder


def test_every_kept_result_is_whole(runs: Path) -> None:
    """Digests are checked as they are read; of commits without changes."""
    cells, problems = read_sweep(runs, TABLES_SWEEP)
    plain, more = read_sweep(runs, published.PLAIN)
    cells, problems = [*lines_of(cells), *lines_of(plain)], [*problems, *more]
    figures, broken = recorded_figures(runs)
    assert problems == broken == []
    assert cells and {cell.status for cell in cells} == {"finished"}
    made = [*cells, *figures]
    assert all(one.commit and not one.commit.endswith("+") for one in made)
    texts = [path.read_text(encoding="utf-8") for path in runs.rglob("*.json")]
    assert not any("runs_dir" in text or "/tmp" in text for text in texts), "where it was run"


def test_page_says_what_they_say(runs: Path) -> None:
    written = published.PAGE.read_text(encoding="utf-8")
    assert written == published.results_page(runs), "python tests/published.py write"


def test_picture_shows_what_they_say(runs: Path, tmp_path: Path) -> None:
    """Pictures hold their numbers, since another version of matplotlib draws other lines."""
    published.draw(published.averages(runs), tmp_path / "again.svg")
    again, kept = (ElementTree.parse(path) for path in (tmp_path / "again.svg", published.PICTURE))
    described = "{http://purl.org/dc/elements/1.1/}description"
    texts = [next(tree.iter(described)).text for tree in (again, kept)]
    assert texts[0] == texts[1] and str(texts[0]).count("micro_") == 18


@pytest.mark.parametrize("page", [published.TEMPLATE, published.REPOSITORY / "README.md"])
def test_intervals_in_prose_are_among_the_results(page: Path) -> None:
    """Findings are written by hand: `+3.4 [+1.4, +5.4]` has to stand in a table."""
    results = published.PAGE.read_text(encoding="utf-8")
    tables = "\n".join(line for line in results.splitlines() if line.startswith("|"))
    quoted = re.findall(r"[-+]?[\d.]+ \[[-+\d., ]+\]", page.read_text(encoding="utf-8"))
    assert quoted and all(interval in tables for interval in quoted)


def test_packing_and_unpacking_keep_every_byte(runs: Path, tmp_path: Path) -> None:
    """Some cells of each seed; the archives are the same bytes for the same files."""
    some = tmp_path / "some"
    for archive in published.KEPT.glob("*.tar.xz"):
        with tarfile.open(archive) as packed:
            names = packed.getnames()
        for name in names[::50]:
            shutil.copytree((runs / name).parent, (some / name).parent, dirs_exist_ok=True)
    first, second = (published.pack(some, tmp_path / name) for name in ("first", "second"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    times = [path.stat().st_mtime_ns for path in first]
    assert published.pack(some, tmp_path / "first") == first
    assert [path.stat().st_mtime_ns for path in first] == times, "written again"
    with pytest.raises(ResultError, match="holds no sweep"):
        published.pack(tmp_path / "nothing", tmp_path / "third")
    published.unpack(tmp_path / "first", tmp_path / "back")
    assert _contents(tmp_path / "back") == _contents(some) != {}


def _contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
