"""One page of what holds of the paper, and what does not."""

from argparse import Namespace
from pathlib import Path

from prrmse.config.params import plain
from prrmse.files import write_text
from prrmse.report.evidence import evidence_html, evidence_markdown, evidence_sections
from prrmse.run.job import run
from prrmse.tables.findings import findings
from prrmse.tables.store import read_table, write_table

TABLES = (
    "controls",
    "relative",
    "joint",
    "joint_effects",
    "screen",
    "factorial",
    "effects",
    "layers",
    "gain",
    "ranking",
    "seconds",
)


def main(a: Namespace) -> None:
    folder = Path(a.folder)
    tables = {name: read_table(folder / f"{name}.csv") for name in TABLES}
    target = a.params["transfer.target"]
    tables = {k: t[t["target"] == target] if "target" in t else t for k, t in tables.items()}
    tables["findings"] = findings(tables, a.params["verdict"])
    provenance = sorted(set(read_table(a.data)["provenance"]))
    sections = evidence_sections(tables, plain(a.params))
    write_table(tables["findings"], folder / "findings.csv")
    write_text(evidence_markdown(sections, provenance), folder / "evidence.md")
    write_text(evidence_html(sections, provenance, folder), folder / "evidence.html")


run(main, "params", "data", "folder")
