"""A start for nnU-Net v2: a trainer, and a file for its ``-pretrained_weights``."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from prrmse.errors import InputError
from prrmse.files import atomic
from prrmse.handover.start import Frozen, listed_tensors
from prrmse.nets.foreign import read_state
from prrmse.nets.layers import state_digest
from prrmse.outputs import check_outputs

log = logging.getLogger(__name__)

# Of such names nnU-Net loads nothing (`nnunetv2.run.load_pretrained_weights`).
NOT_LOADED = ".seg_layers."
TRAINER = '''"""Written by prrmse: nnUNetv2_train DATASET CONFIGURATION FOLD -tr {name} -pretrained_weights {weights}

nnU-Net looks for it in the folders of the variable nnUNet_extTrainer, at prediction too.
"""

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from prrmse.handover.nnunet import WarmStart


class {name}(WarmStart, nnUNetTrainer):
    digest = "{digest}"
    frozen = {frozen}
'''


class WarmStart:
    """What makes a trainer of nnU-Net keep the frozen tensors of a start, named before it among the base classes.

    ``frozen`` are their names, ``digest`` is that of their values.
    """

    frozen: ClassVar[list[str]]
    digest: ClassVar[str]

    def configure_optimizers(self, *stage: Any, **options: Any) -> Any:
        """nnU-Net calls it after ``torch.compile`` and before DDP, which notes what has a gradient.

        Trainers that warm up call it again, with a stage; to freeze once more what is frozen changes nothing.
        """
        Frozen(_bare(self), self.frozen)
        return super().configure_optimizers(*stage, **options)  # type: ignore[misc]

    def on_train_start(self) -> None:
        """Refuse to train with other values frozen: those of a random initialisation."""
        trainer: Any = self
        if not trainer.was_initialized:
            trainer.initialize()
        network = _bare(self)
        if _digest(network.state_dict(), self.frozen) != self.digest:
            name = type(self).__name__
            raise InputError(
                f"{name}: the network does not hold the start's values; add -pretrained_weights {name}.pth"
            )
        Frozen(network, self.frozen)  # again: for DDP nnU-Net replaces batch normalisations
        super().on_train_start()  # type: ignore[misc]


def write_nnunet(
    start: Mapping[str, torch.Tensor] | str | Path, freeze: Iterable[str] | str | Path, path: str | Path
) -> None:
    """Write a trainer, and beside it the file for ``-pretrained_weights``.

    nnU-Net does not load what maps to the classes (``seg_layers``); it is not frozen either.

    Args:
        start: a state or a file, of `prrmse.api.warmstart`, for the network of nnU-Net's plans.
        freeze: the list beside it (``.json``), or names of tensors.
        path: ``NAME.py``; the class is called NAME, and the file of weights ``NAME.pth``.

    Raises:
        InputError: NAME cannot be that of a class, or a tensor to freeze is not in the start.
    """
    check_outputs({"nnunet": path}, (start, freeze))
    path = Path(path)
    state = read_state(start) if isinstance(start, str | Path) else dict(start)
    names = listed_tensors(freeze) if isinstance(freeze, str | Path) else list(freeze)
    if unknown := sorted(set(names) - state.keys()):
        raise InputError(f"<freeze>: names {unknown[0]}, which the start does not have")
    frozen = sorted(name for name in names if NOT_LOADED not in name)
    if len(frozen) < len(names):
        log.warning("%d tensors of seg_layers are not frozen: nnU-Net does not load them", len(names) - len(frozen))
    # Of a layer with only one of its running statistics listed, that one is not kept (`Frozen`).
    frozen = [name for name in frozen if all(other in frozen for other in _statistics_beside(name))]
    weights = path.with_suffix(".pth")
    text = TRAINER.format(
        name=path.stem, weights=weights.name, digest=_digest(state, frozen), frozen=json.dumps(frozen)
    )
    with atomic(weights) as pickled, atomic(path) as program:
        torch.save({"network_weights": state}, pickled)
        program.write_text(text)


def _statistics_beside(name: str) -> list[str]:
    """Both running statistics of the layer that has the one of this name; none if it is no such tensor."""
    module, _, tensor = name.rpartition(".")
    names = ("running_mean", "running_var")
    return [f"{module}.{other}".removeprefix(".") for other in names] if tensor in names else []


def _bare(trainer: Any) -> nn.Module:
    """A trainer's network without the wrappers of DDP and ``torch.compile``."""
    network = getattr(trainer.network, "module", trainer.network)
    bare: nn.Module = getattr(network, "_orig_mod", network)
    return bare


def _digest(state: Mapping[str, torch.Tensor], names: Iterable[str]) -> str:
    return state_digest({name: state[name] for name in names})
