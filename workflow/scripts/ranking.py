"""Scores against realised gains: tables and figure."""

from argparse import Namespace
from pathlib import Path

from prrmse.figures.evidence import draw_ranking
from prrmse.figures.style import Drawing
from prrmse.run.job import run
from prrmse.tables.ranking import (
    all_scores,
    gain_table,
    gain_values,
    layer_correlations,
    random_drops,
    ranking_table,
    seconds_table,
)
from prrmse.tables.store import read_table, read_tables, write_table


def main(a: Namespace) -> None:
    settings, out = a.params["verdict"], Path(a.out)
    layers = read_tables(a.layers)
    scores = all_scores(read_tables(a.scores), read_table(a.base), read_table(a.data))
    rows, gains = gain_values(read_tables(a.gains))
    gained = gain_table(rows, gains, settings.level)
    ranking = ranking_table(scores, rows, gains, settings)
    correlations = layer_correlations(layers, random_drops(read_tables(a.controls)), settings)
    seconds = read_tables(a.score_seconds), read_tables(a.gain_seconds)
    for name, table in (
        ("scores", scores),
        ("gain", gained),
        ("ranking", ranking),
        ("layers", correlations),
        ("seconds", seconds_table(*seconds)),
    ):
        write_table(table, out / f"{name}.csv")
    draw_ranking(ranking, gained, Drawing(a.params["figures"]), out)


run(
    main,
    *("params", "base", "data", "out"),
    lists=["scores", "layers", "score-seconds", "gains", "gain-seconds", "controls"],
)
