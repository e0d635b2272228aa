"""The paper's table of transfer gains: CSV, Markdown, LaTeX."""

from argparse import Namespace

from prrmse.files import write_text
from prrmse.run.job import run
from prrmse.tables.means import transfer_table
from prrmse.tables.paper import transfer_latex, transfer_markdown
from prrmse.tables.store import read_table, read_tables, write_table


def main(a: Namespace) -> None:
    transfer, data = transfer_table(read_tables(a.parts)), read_table(a.data)
    write_table(transfer, a.table)
    write_text(transfer_markdown(transfer, data), a.markdown)
    write_text(transfer_latex(transfer, data), a.latex)


run(main, "table", "markdown", "latex", "data", lists=["parts"])
