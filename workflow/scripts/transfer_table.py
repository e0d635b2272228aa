"""The paper's table of transfer gains: CSV, Markdown, LaTeX."""

from argparse import Namespace

from prrmse.job import read_table, read_tables, run, write_table, write_text
from prrmse.paper_table import transfer_latex, transfer_markdown
from prrmse.transfer import transfer_table


def main(a: Namespace) -> None:
    transfer, data = transfer_table(read_tables(a.parts)), read_table(a.data)
    write_table(transfer, a.table)
    write_text(transfer_markdown(transfer, data), a.markdown)
    write_text(transfer_latex(transfer, data), a.latex)


run(main, "table", "markdown", "latex", "data", many="parts")
