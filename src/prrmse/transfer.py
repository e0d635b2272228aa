"""Transfer: train the target with few patients, from scratch or with a source's reusable parameters.

Paper, method step 4 and its table (DESIGN sections 1 and 5).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prrmse.base import evaluate
from prrmse.checkpoint import load_checkpoint
from prrmse.data.slices import Slices, load_slices
from prrmse.layers import inventory, swap
from prrmse.metrics import mean_over_patients
from prrmse.nets import starting_point
from prrmse.params import image_channels, split_model
from prrmse.plan import reused_pairs
from prrmse.seeding import derive_seed
from prrmse.train import train


def draw_patients(slices: Slices, samples: int, seed: int) -> Slices:
    """The training slices of ``samples`` random patients (all of them if there are fewer).

    A larger draw of the same seed contains the smaller one, so that sample sizes are compared on
    nested sets.
    """
    patients = np.array(slices.patients("train"))
    rng = np.random.default_rng(derive_seed(slices.meta["dataset"], "transfer patients", seed))
    chosen = set(rng.permutation(patients)[:samples])
    rows = (slices.index["split"] == "train") & slices.index["patient"].isin(chosen)
    return slices.take(np.flatnonzero(rows.to_numpy()))


def transfer_run(
    net: str,
    samples: int,
    arm: str,
    source: str,
    seed: int,
    data: Path,
    checkpoint: Path | None,
    verdict: Path | None,
    params: dict[str, Any],
    resume: Path,
) -> pd.DataFrame:
    """One run of the transfer experiment.

    The network starts where base models start (``init``), for this run's seed; the reused pairs are
    then taken from the source, the others stay at their initialisation.

    Args:
        net, samples, arm, source, seed: which run; ``source`` is ``none`` where nothing is loaded.
        data: processed data set of the target.
        checkpoint: of the source; None to begin at the start. The arm ``freeze`` then trains the rest on top of
            untrained kernels.
        verdict: ``verdict.csv``, for plan ``verdict``.
        params: ``net``, ``init``, ``transfer`` and ``compute``.
        resume: file for the state of an unfinished training.

    Returns:
        One row per (patient, class) of the target's validation split: patient, class, dice, n_train
        (patients trained on: fewer than ``samples`` where the cohort has fewer), pairs_reused.
    """
    transfer = params["transfer"]
    spec = params["net"]
    slices = load_slices(data)
    drawn = draw_patients(slices, samples, seed)
    network = starting_point(net, spec, params["init"], transfer["target"], seed)
    reused = []
    if arm != "scratch":
        table = None if verdict is None else pd.read_csv(verdict)
        reused = reused_pairs(net, source, inventory(network), transfer["plan"], transfer["reuse_final"], table)
    if checkpoint is not None:
        network.load_state_dict(swap(network.state_dict(), load_checkpoint(checkpoint)[0], reused))
    else:  # running statistics that nobody has estimated are not worth keeping
        reused = [layer for layer in reused if layer.kind not in ("RM", "RV")]
    train(
        network,
        drawn,
        split_model(transfer["target"])[1],
        transfer["train"],
        derive_seed(net, transfer["target"], "transfer", samples, seed),
        params["compute"],
        image_channels=image_channels(spec),
        frozen=reused if arm == "freeze" else (),
        title=f"{net} n={samples} {arm} {source} seed {seed}",
        resume=resume,
    )
    table = evaluate(network, slices, "seg", params["compute"], spec)
    table["n_train"], table["pairs_reused"] = len(drawn.patients()), len(reused)
    return table


def transfer_table(parts: pd.DataFrame) -> pd.DataFrame:
    """The contract's ``transfer.csv``: means over patients.

    Args:
        parts: net, samples, arm, source, seed, patient, class, dice, n_train, pairs_reused.
    """
    return mean_over_patients(parts, ["net", "samples", "arm", "source", "seed", "n_train", "pairs_reused", "class"])
