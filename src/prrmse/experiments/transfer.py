"""Transfer: train the target with few patients, from scratch or with a source's reusable parameters.

Paper, method step 4 and its table (DESIGN sections 1 and 5).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from prrmse.data.slices import draw_patients, load_slices
from prrmse.learning.evaluate import evaluate
from prrmse.learning.train import train
from prrmse.names import image_channels, split_model
from prrmse.nets.checkpoint import load_checkpoint
from prrmse.nets.layers import inventory, swap
from prrmse.nets.start import starting_point
from prrmse.seeding import derive_seed
from prrmse.tables.plan import reused_pairs


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
