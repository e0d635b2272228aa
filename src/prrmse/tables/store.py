"""Tables as CSV files."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

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
        InputError: the file is missing, empty, or no table; names it.
    """
    return _read(path, na_values=[""])


def read_texts(path: str | Path) -> pd.DataFrame:
    """One CSV as it is written, every cell a text.

    Raises:
        InputError: as `read_table`.
    """
    return _read(path, dtype=str)


def _read(path: str | Path, **options: Any) -> pd.DataFrame:
    if not Path(path).is_file():  # a pipe would block for ever
        raise InputError(f"{path}: no such file; run the workflow again")
    try:
        table: pd.DataFrame = pd.read_csv(path, keep_default_na=False, **options)
        return table
    except MemoryError:
        raise
    except Exception as e:  # a damaged file can raise anything
        said = " ".join(str(e).split())[:300] or type(e).__name__
        raise InputError(f"{path}: not a complete table ({said}); delete it and run again") from None


def with_ids(table: pd.DataFrame, ids: dict[str, object]) -> pd.DataFrame:
    """The table with these columns, constant, in front."""
    return pd.concat([pd.DataFrame(ids, index=table.index), table], axis=1)
