"""Outcomes of a harness, added up over invocations with different seeds."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from prrmse.run.manifest import commit
from prrmse.tables.store import read_table, write_table


class Tally:
    """Counts by what was tried, kept in a CSV file if one is given.

    Args:
        keys: columns that say what was tried; all others are counts.
        seed: of this invocation. One that the file has already is refused: its cases would count twice.
        path: the file, which may hold earlier invocations.
    """

    def __init__(self, keys: list[str], seed: int, path: Path | None) -> None:
        self.keys, self.path = keys, path and path.resolve()
        self.origin = {"seed": seed, "commit": commit(Path(__file__).parent)["commit"] or "none"}
        self.table = read_table(self.path) if self.path and self.path.exists() else pd.DataFrame()
        if len(self.table) and seed in set(self.table["seed"]):
            raise SystemExit(f"{path} has seed {seed} already; take another")

    def add(self, *rows: dict[str, str | int]) -> None:
        """Add to the counts, and write the file: what is added stays if the harness is stopped."""
        table = pd.concat([self.table, pd.DataFrame([{**row, **self.origin} for row in rows])])
        summed = table.groupby([*self.keys, *self.origin], sort=False).sum().reset_index()
        self.table = summed[table.columns]
        if self.path:
            write_table(self.table, self.path)

    def count(self, column: str) -> int:
        return int(self.table[column].sum())

    def __str__(self) -> str:
        """In Markdown, a row for each that was tried, and one for all where one key says what."""
        counts = self.table.drop(columns=list(self.origin)).groupby(self.keys, sort=False).sum()
        if len(self.keys) == 1 < len(counts):
            counts.loc["all"] = counts.sum()
        commits = ", ".join(text[:7] for text in self.table["commit"].unique())
        seeds = ", ".join(map(str, self.table["seed"].unique()))
        table = re.sub(" {2,}", " ", counts.reset_index().to_markdown(index=False))
        return f"{re.sub('-{4,}', '---', table)}\n\ncommit {commits}, seed {seeds}"
