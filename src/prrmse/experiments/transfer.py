"""Transfer: train the target with few patients, from scratch or with a source's reusable parameters.

Paper, method step 4 and its table.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from prrmse.learning.reach import reaching
from prrmse.learning.target import FewPatients
from prrmse.learning.training_run import training_run
from prrmse.names import split_model
from prrmse.seeding import derive_seed
from prrmse.settings import FrozenStatistics, Training
from prrmse.tables.plan import reused_pairs


def transfer_run(
    of: FewPatients,
    arm: str,
    *,
    plan: str,
    reuse_final: bool = False,
    frozen_statistics: FrozenStatistics = "both",
    verdict: pd.DataFrame | None = None,
    settings: Training,
    resume: Path,
) -> pd.DataFrame:
    """One run of the transfer experiment.

    The network is initialised as base models are (``init``), for this run's seed; the reused pairs are then taken from
    the source, the others keep their initialisation.

    Args:
        of: network, patients and source. Without a source the arm ``freeze`` trains the rest on top of untrained
            kernels.
        arm: ``scratch``, ``freeze`` or ``finetune``.
        plan, reuse_final, verdict: see `prrmse.tables.plan.reused_pairs`.
        frozen_statistics: of the arm ``freeze`` (`prrmse.learning.freeze.Freezing`).
        settings: of the training.
        resume: file for the state of an unfinished training.

    Returns:
        One row per (patient, class) of the target's validation split: patient, class, dice, n_train
        (patients trained on: fewer than ``samples`` where the cohort has fewer), pairs_reused.
    """
    network, drawn, validation = of.load()
    reused = []
    if arm != "scratch":
        layers = reaching(network, validation.whole.image[:1])
        chosen = reused_pairs(of.net, of.target, of.source, layers, plan, reuse_final, verdict)
        reused = of.reuse(network, chosen)
    table = training_run(
        network,
        drawn,
        validation,
        split_model(of.target)[1],
        settings,
        derive_seed(of.net, of.target, "transfer", of.samples, of.seed),
        of.compute,
        frozen=reused if arm == "freeze" else (),
        frozen_statistics=frozen_statistics,
        title=f"{of.net} n={of.samples} {arm} {of.source} seed {of.seed}",
        resume=resume,
    )
    return table.assign(n_train=len(drawn.patients()), pairs_reused=len(reused))
