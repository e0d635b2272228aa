"""The study's tables, figures and page."""

from argparse import Namespace
from pathlib import Path

import pandas as pd

from prrmse.figures.study import draw_study
from prrmse.figures.style import Drawing
from prrmse.files import write_text
from prrmse.names import split_model
from prrmse.report.study import study_page
from prrmse.run.job import run
from prrmse.tables.connect import connect_table
from prrmse.tables.regret import search_table
from prrmse.tables.store import read_table, read_tables, write_table
from prrmse.tables.study import base_measured_table, guides_table, recipes_table, reuse_table, runs_table, score_table


def main(a: Namespace) -> None:
    study, verdict, folder = a.params["study"], a.params["verdict"], Path(a.folder)
    data = read_table(a.data)
    base = base_measured_table(read_tables(a.base))
    middle = len(a.guides) // 2
    whole, few = read_tables(a.guides[:middle]), read_tables(a.guides[middle:])
    sweeps = read_tables(a.sweeps) if a.sweeps else pd.DataFrame()
    raw = {
        "data": data[data["dataset"].isin({split_model(target)[0] for target in study.targets})],
        "base": base,
        "runs": runs_table(read_tables(a.runs)),
        "scores": score_table(read_tables(a.scores), base, data),
        "recipes": recipes_table(read_tables(a.recipes) if a.recipes else pd.DataFrame()),
        "search": search_table(read_tables(a.searches)),
        "guides": guides_table(whole[whole["class"] == "mean"], few[few["class"] == "mean"], verdict),
        "reuse": reuse_table(sweeps[sweeps["class"] == "mean"], verdict) if a.sweeps else pd.DataFrame(),
    }
    if a.connected:
        raw |= {"connect": connect_table(read_tables(a.connected))}
        raw |= {"llfc": read_tables(a.llfc), "together": read_tables(a.together)}
    page, tables = study_page(raw, study, verdict)
    for name, table in {**raw, **tables}.items():
        write_table(table, folder / f"{name}.csv")
    draw_study({**raw, **tables}, study.nets[0], Drawing(a.params["figures"], verdict), folder)
    write_text(page, folder / "study.md")


run(
    main,
    *("params", "data", "folder"),
    lists=["base", "runs", "scores", "sweeps", "guides", "searches", "recipes", "connected", "llfc", "together"],
)
