"""Findings of the paper's audit, as printed or with some cells corrected."""

from dataclasses import replace

from dllmquant_exp.reporting.audit import audit
from dllmquant_exp.reporting.audit_finding import Finding
from dllmquant_exp.reporting.paper import PaperCell, paper_cells

Change = tuple[int, str, str, str, str]  # table, model, row, column, new print


def corrected(*changes: Change) -> list[PaperCell]:
    new = {change[:4]: change[4] for change in changes}
    cells = [
        replace(c, printed=new.pop((c.table, c.model, c.row, c.column), c.printed))
        for c in paper_cells()
    ]
    assert not new, f"no such cells: {new}"
    return cells


def found(check: str, where: str = "", cells: list[PaperCell] | None = None) -> list[Finding]:
    return [
        finding
        for finding in audit(cells)
        if finding.check == check and where in finding.where and finding.severity != "agrees"
    ]


def one(check: str, where: str = "", cells: list[PaperCell] | None = None) -> Finding:
    findings = found(check, where, cells)
    assert len(findings) == 1, findings
    return findings[0]
