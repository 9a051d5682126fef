"""A report as a page: its numbers, their sources, gaps and verdicts; and how a browser shows it."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from made_results import LABELS

from dllmquant_exp.reporting.claims.verdicts import COLUMNS
from dllmquant_exp.reporting.page import html_page
from dllmquant_exp.reporting.reports import (
    Report,
    Sweep,
    claims_report,
    sweep_report,
    tables_report,
)

CHROMIUM = shutil.which("chromium")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars",
)  # fmt: skip
# Stands in front of everything, so that it sees every error.
LISTENS = (
    "<script>window.faults = []; addEventListener('error', e => faults.push(e.message));</script>"
)
# What a reader sees and does: wide things, a number that is opened, a verdict that is put away.
LOOKS = """<script>
const listed = "body, table, td, figure, section, .claim, .number, .value, .interval, .change";
const clipped = [...document.querySelectorAll(listed)].filter(
  one => one.scrollWidth > one.clientWidth && one.clientWidth > 0);
const found = {
  faults, width: innerWidth, page: document.documentElement.scrollWidth,
  clipped: clipped.map(one => one.tagName + ": " + one.textContent.trim().slice(0, 60)),
};
const opener = document.querySelector("td button");
if (opener) {
  opener.click();
  const open = document.querySelectorAll(":popover-open");
  found.opened = [...open].map(one => one.textContent.includes("seed"));
}
const box = document.querySelector(".filter input");
if (box) {
  const claims = [...document.querySelectorAll(".claim")];
  const shown = () => claims.filter(one => one.offsetHeight).length;
  const before = shown();
  box.click();
  found.filtered = [before, shown(), document.querySelectorAll(
    `.claim[data-verdict="${box.value}"]`).length];
}
parent.document.title = JSON.stringify(found);
</script>"""
# A window is never narrower than 500 pixels, but a frame may be.
FRAME = '<title></title><iframe style="width:{}px;height:5000px;border:0" srcdoc="{}"></iframe>'


@pytest.fixture
def sweep(write_cell: Callable[..., Path], tmp_path: Path) -> Sweep:
    """Three rows of Table 1 on nine tasks, ten items each; one cell failed, one is missing."""
    for row, right in (("fp", 9), ("rtn", 4), ("quarot", 7)):
        for task in LABELS:
            scores = [1] * right + [0] * (10 - right)
            if (row, task) != ("quarot", "arc"):
                failed = (row, task) == ("quarot", "piqa")
                write_cell(row, task, None if failed else scores, model="micro_llada")
    return Sweep(tmp_path / "runs", "tables", ["micro_llada"])


def page(report: Report, sweep: Sweep, tmp_path: Path) -> str:
    return html_page(report, sweep, tmp_path / "runs" / "tables" / "report")


def test_numbers_open_to_the_runs_behind_them(sweep: Sweep, tmp_path: Path) -> None:
    text = page(tables_report("table1", sweep), sweep, tmp_path)
    cells = sweep.cells[sweep.cells["status"] == "finished"]
    for cell in cells.itertuples():
        assert cell.config_hash in text
    links = re.findall(r'<a href="(\.\./[^"]+)">', text)
    assert len(links) == len(cells) == 25
    folder = tmp_path / "runs" / "tables" / "report"
    assert all((folder / link).resolve().is_file() for link in links)
    opened = re.findall(r"(\d+) lost, (\d+) gained", text)
    assert opened.count(("5", "0")) == 9 and opened.count(("2", "0")) == 7  # of nine and four
    assert "lost: truthfulqa 4; truthfulqa 5" in text
    assert text.count("40.0</span>") >= 9 and "<span>-50.0*</span>" in text


def test_gaps_are_visible(sweep: Sweep, tmp_path: Path) -> None:
    broken = tmp_path / "runs" / "tables" / "broken"
    broken.mkdir()
    (broken / "result.json").write_text("{}")
    text = page(tables_report("table1", sweep), sweep, tmp_path)
    assert re.search(r'data-label="PIQA" class=" failed">\s*<span class="value">failed', text)
    assert re.search(r'data-label="Arc\." class=" missing">\s*<span class="value">missing', text)
    faults = text[text.index('id="faults"') : text.index("</section>")]
    assert faults.count("badge failed") == 2 and "broken/result.json" in faults  # one unreadable
    assert faults.count("badge missing") >= 2


def test_a_sweep_has_a_page_of_its_own(sweep: Sweep, tmp_path: Path) -> None:
    text = page(sweep_report(sweep.cells, sweep.unreadable), sweep, tmp_path)
    assert "<title>Sweep tables</title>" in text and text.count("popovertarget") == 25


def test_every_claim_has_its_verdict(sweep: Sweep, tmp_path: Path) -> None:
    report = claims_report(sweep)
    text = page(report, sweep, tmp_path)
    lines = report.documents[0].lines
    assert list(lines.columns) == ["model", *COLUMNS]
    assert text.count('class="claim"') == len(lines)
    for verdict, count in lines["verdict"].value_counts().items():
        assert text.count(f'data-verdict="{verdict}"') == count
        assert re.search(rf'value="{verdict}">.*{verdict}</span> {count}</label>', text)
    assert all(html.escape(sentence, quote=False) in html.unescape(text).replace("&", "&amp;")
               for sentence in lines["sentence"])  # fmt: skip


def test_texts_are_escaped_and_nothing_is_fetched(sweep: Sweep, tmp_path: Path) -> None:
    report = tables_report("table1", sweep)
    evil = "failed: <script>alert(1)</script>"
    text = page(Report(report.documents, [evil], [evil]), sweep, tmp_path)
    assert text.count("<script>") == 1 and "&lt;script&gt;alert" in text
    assert not re.search(r'(src|href)="(?!#|\.\./)', text)
    assert not re.search(r"@import|url\((?!#)", text)


@pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium: apt-get install chromium")
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("kind", ["tables", "claims", "sweep"])
def test_a_browser_shows_all_of_it(sweep: Sweep, tmp_path: Path, kind: str, width: int) -> None:
    reports = {
        "tables": lambda: tables_report("all", sweep),
        "claims": lambda: claims_report(sweep),
        "sweep": lambda: sweep_report(sweep.cells, sweep.unreadable),
    }
    file = tmp_path / "page.html"
    text = page(reports[kind](), sweep, tmp_path)
    file.write_text(text, encoding="utf-8")
    picture = tmp_path / "page.png"
    browse(file, width, f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG") and picture.stat().st_size > 20_000
    looked = text.replace("<head>", f"<head>{LISTENS}").replace("</body>", f"{LOOKS}</body>")
    file.write_text(FRAME.format(width, html.escape(looked)), encoding="utf-8")
    dumped = browse(file, width, "--dump-dom")
    found = json.loads(html.unescape(re.search(r"<title>(.*?)</title>", dumped, re.DOTALL)[1]))
    assert found["faults"] == [] and found["clipped"] == []
    assert found["page"] <= found["width"] == width
    if kind != "claims":
        assert found["opened"] == [True]
    else:
        before, after, of_verdict = found["filtered"]
        assert before - after == of_verdict > 0


def browse(file: Path, width: int, *words: str) -> str:
    assert CHROMIUM is not None
    own = [f"--user-data-dir={file.parent / 'profile'}", f"--window-size={width},1200"]
    done = subprocess.run(
        [CHROMIUM, *FLAGS, *own, *words, file.as_uri()], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
