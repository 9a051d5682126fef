"""BibTeX of the paper and of this software, from CITATION.cff."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def bibtex() -> str:
    """The entries, the paper's first."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "CITATION.cff"  # of a wheel
    path = inside if inside.is_file() else package.parent / "CITATION.cff"
    software: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    paper = software["preferred-citation"]
    return "\n\n".join(
        [_entry("article", _key(paper), paper), _entry("software", "dllmquant_exp", software)]
    )


def _key(work: Mapping[str, Any]) -> str:
    """As xu2025dllmquant."""
    first = work["title"].partition(":")[0]
    return f"{work['authors'][0]['family-names']}{work['year']}{first}".lower()


def _entry(kind: str, key: str, work: Mapping[str, Any]) -> str:
    arxiv = [of["value"].removeprefix("arXiv:") for of in work.get("identifiers", ())]
    authors = [
        ", ".join(of[part] for part in ("family-names", "given-names") if part in of) or of["name"]
        for of in work["authors"]
    ]
    fields = {
        "title": f"{{{work['title']}}}",
        "author": " and ".join(authors),
        "year": work.get("year"),
        "journal": work.get("journal"),
        "eprint": arxiv[0] if arxiv else None,
        "archivePrefix": "arXiv" if arxiv else None,
        "version": work.get("version"),
        "url": work.get("url"),
    }
    lines = [f"  {name} = {{{value}}}," for name, value in fields.items() if value is not None]
    return "\n".join([f"@{kind}{{{key},", *lines, "}"])
