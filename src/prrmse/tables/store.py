"""Tables as CSV files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from prrmse.errors import InputError
from prrmse.files import write_text


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a CSV whole or not at all; floats in full, so that equal tables are equal bytes."""
    write_text(table.to_csv(index=False), path)


def read_tables(paths: Iterable[str | Path]) -> pd.DataFrame:
    """Several CSV files below each other, in the order given.

    Raises:
        InputError: a file is missing or empty; names it.
    """
    return pd.concat([read_table(path) for path in paths], ignore_index=True)


def read_table(path: str | Path) -> pd.DataFrame:
    """One CSV; ``none`` is a name, not a missing value.

    Raises:
        InputError: the file is missing or empty; names it.
    """
    try:
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    except (FileNotFoundError, pd.errors.EmptyDataError) as e:
        raise InputError(f"{path}: not a complete table ({e}); delete it and run again") from None


def with_ids(table: pd.DataFrame, ids: dict[str, object]) -> pd.DataFrame:
    """The table with these columns, constant, in front."""
    return pd.concat([pd.DataFrame(ids, index=table.index), table], axis=1)
