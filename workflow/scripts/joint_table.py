"""What fits alone, and what fits together: table and figure."""

from argparse import Namespace
from pathlib import Path

import pandas as pd

from prrmse.figures.evidence import draw_joint
from prrmse.figures.style import Drawing
from prrmse.run.job import run
from prrmse.tables.joint import joint_effects
from prrmse.tables.store import read_table, read_tables, write_table
from prrmse.tables.verdict import drops_table


def main(a: Namespace) -> None:
    settings, out = a.params["verdict"], Path(a.out)
    parts = read_tables(a.parts)
    parts = parts[parts["class"] == "mean"]
    swaps = read_table(a.swaps)
    alone = swaps[(swaps["kind"] == "W") & ~swaps["final"]].assign(variant="alone")
    columns = ["variant", "layer", "module"]
    everything = pd.concat([alone, parts])
    table = drops_table(everything, columns, settings, "joint")
    write_table(table, out / "joint.csv")
    write_table(joint_effects(everything, settings), out / "joint_effects.csv")
    draw_joint(table, Drawing(a.params["figures"], settings), out)


run(main, "params", "swaps", "out", lists=["parts"])
