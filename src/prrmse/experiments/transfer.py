"""Transfer: train the target with few patients, from scratch or with a source's reusable parameters.

Paper, method step 4 and its table.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from prrmse.data.slices import draw_patients, load_slices
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.training_run import training_run
from prrmse.names import split_model
from prrmse.nets.checkpoint import load_checkpoint
from prrmse.nets.layers import inventory, swap
from prrmse.nets.start import starting_point
from prrmse.seeding import derive_seed
from prrmse.settings import Compute, FrozenStatistics, Network, Training
from prrmse.tables.plan import reused_pairs


def transfer_run(
    net: str,
    target: str,
    samples: int,
    arm: str,
    source: str,
    seed: int,
    *,
    data: Path,
    checkpoint: Path | None,
    spec: Network,
    init: str,
    plan: str,
    reuse_final: bool = False,
    frozen_statistics: FrozenStatistics = "both",
    verdict: pd.DataFrame | None = None,
    settings: Training,
    compute: Compute,
    resume: Path,
) -> pd.DataFrame:
    """One run of the transfer experiment.

    The network starts where base models start (``init``), for this run's seed; the reused pairs are
    then taken from the source, the others stay at their initialisation.

    Args:
        net, target, samples, arm, source, seed: which run; ``source`` is ``none`` where nothing is loaded.
        data: processed data set of the target.
        checkpoint: of the source; None to begin at the initialisation. The arm ``freeze`` then trains the rest on top
            of untrained kernels.
        spec, init: see `prrmse.nets.start.starting_point`.
        plan, reuse_final, verdict: see `prrmse.tables.plan.reused_pairs`.
        frozen_statistics: of the arm ``freeze`` (`prrmse.learning.freeze.Freezing`).
        settings, compute: of the training.
        resume: file for the state of an unfinished training.

    Returns:
        One row per (patient, class) of the target's validation split: patient, class, dice, n_train
        (patients trained on: fewer than ``samples`` where the cohort has fewer), pairs_reused.
    """
    slices = load_slices(data)
    drawn = draw_patients(slices, samples, seed)
    network = starting_point(net, spec, init, target, seed)
    reused = [] if arm == "scratch" else reused_pairs(net, source, inventory(network), plan, reuse_final, verdict)
    if checkpoint is not None:
        network.load_state_dict(swap(network.state_dict(), load_checkpoint(checkpoint)[0], reused))
    else:  # running statistics that nobody has estimated are not worth keeping
        reused = [layer for layer in reused if layer.kind not in ("RM", "RV")]
    table = training_run(
        network,
        drawn,
        Evaluation.of_split(slices, "val", compute, spec),
        split_model(target)[1],
        settings,
        derive_seed(net, target, "transfer", samples, seed),
        compute,
        frozen=reused if arm == "freeze" else (),
        frozen_statistics=frozen_statistics,
        title=f"{net} n={samples} {arm} {source} seed {seed}",
        resume=resume,
    )
    return table.assign(n_train=len(drawn.patients()), pairs_reused=len(reused))
