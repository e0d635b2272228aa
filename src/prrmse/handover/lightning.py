"""A start for Lightning: a schedule of fine-tuning, as a callback (the package ``lightning``)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from prrmse.errors import InputError
from prrmse.handover.start import Frozen, apply_start


class FineTuning(Callback):
    """Loads a start, keeps what is frozen until an epoch, then trains that too.

    ``configure_optimizers`` is to name all parameters: without a gradient they stay as they are, and no group has to
    be added later, which schedules of the learning rate do not expect.

    Args:
        start: as for `apply_start`. A training that goes on from Lightning's own checkpoint keeps that one's values.
        freeze: as for `apply_start`.
        network: the attribute of the module that holds the network; the module itself if empty. It has to be there
            before the training starts.
        unfreeze_at: the epoch, counted from 0, that trains everything; never if None.

    Raises:
        InputError: as `apply_start`; or ``unfreeze_at`` cannot be kept: the optimisers do not have the frozen
            parameters, or there are several processes, which exchange gradients only of what had one at the start.
    """

    def __init__(
        self,
        start: Mapping[str, torch.Tensor] | str | Path,
        freeze: Iterable[str] | str | Path = (),
        *,
        network: str = "",
        unfreeze_at: int | None = None,
    ) -> None:
        self._start, self._freeze, self._name, self._unfreeze_at = start, freeze, network, unfreeze_at
        self._frozen: Frozen | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Before the optimisers are made; not for a test, which would lose what was trained."""
        if stage != "fit" or self._frozen is not None:
            return
        if self._unfreeze_at is not None and trainer.world_size > 1:
            raise InputError(f"<unfreeze_at>: {trainer.world_size} processes; leave it out, or train with one")
        self._frozen = apply_start(pl_module.get_submodule(self._name), self._start, self._freeze)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Again: ``sync_batchnorm`` replaces normalisations after `setup`."""
        assert self._frozen is not None
        self._frozen.release()
        self._frozen = Frozen(pl_module.get_submodule(self._name), self._frozen.names)
        trained = {
            id(p) for optimiser in trainer.optimizers for group in optimiser.param_groups for p in group["params"]
        }
        if self._unfreeze_at is not None and not trained.issuperset(map(id, self._frozen.parameters)):
            raise InputError(
                "<unfreeze_at>: the optimisers lack frozen parameters; give them all in configure_optimizers"
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """At the epoch, or later where a training goes on."""
        if self._frozen is not None and self._unfreeze_at is not None and trainer.current_epoch >= self._unfreeze_at:
            self._frozen.release()
