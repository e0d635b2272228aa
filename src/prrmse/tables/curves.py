"""Training curves of base models as a table."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from prrmse.errors import InputError
from prrmse.names import split_model
from prrmse.tables.store import with_ids


def curves_table(files: Iterable[str]) -> pd.DataFrame:
    """One row per point of a training curve: net, model, task, seed, step, loss, rate, dice (of the batch).

    Args:
        files: ``.../NET/MODEL/seedN.jsonl``.
    """
    found = []
    for file in files:
        net, model, seed = Path(file).with_suffix("").parts[-3:]
        ids: dict[str, object] = {"net": net, "model": model, "task": split_model(model)[1]}
        ids["seed"] = seed.removeprefix("seed")
        found.append(with_ids(_read_points(file).reindex(columns=["step", "loss", "rate", "dice"]), ids))
    return pd.concat(found, ignore_index=True)


def _read_points(path: str) -> pd.DataFrame:
    try:
        return pd.read_json(Path(path), lines=True, precise_float=True)
    except (OSError, ValueError) as e:
        said = " ".join(str(e).split())[:300]
        raise InputError(f"{path}: not a complete curve ({said}); delete it and run again") from None
