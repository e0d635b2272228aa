"""The target of an experiment: a trained network with its data set, or an untrained one with few of its patients."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from prrmse.data.slices import Slices, draw_patients, load_slices
from prrmse.learning.evaluate import Evaluation
from prrmse.names import Layer
from prrmse.nets.checkpoint import load_checkpoint, load_network
from prrmse.nets.initialisation import initialised_network
from prrmse.nets.layers import swap
from prrmse.settings import Compute, Network


@dataclass(frozen=True)
class Target:
    """A trained network, in evaluation mode, and the slices of its data set.

    Attributes:
        network: of the checkpoint.
        header: of the checkpoint; ``net``, ``model`` and ``seed`` say which one it is.
        slices: all splits.
        spec, compute: what evaluations of it need.
    """

    network: nn.Module
    header: dict[str, Any]
    slices: Slices
    spec: Network
    compute: Compute

    @classmethod
    def load(cls, checkpoint: Path, data: Path, spec: Network, compute: Compute) -> Target:
        """From a checkpoint and the processed data set.

        Raises:
            InputError: as `load_network` and `load_slices`.
        """
        return cls(*load_network(checkpoint, spec.factory, trust=spec.trust), load_slices(data), spec, compute)

    def on(self, slices: Slices) -> Evaluation:
        """Slices as the network takes them."""
        return Evaluation(slices, self.compute, self.spec.classes, self.spec.image_channels)

    def validation(self) -> Evaluation:
        """The validation slices."""
        return self.on(self.slices.split("val"))


@dataclass(frozen=True)
class FewPatients:
    """A network to be fitted to few patients of the target's data set, on top of a source.

    Attributes:
        net, target, samples, source, seed: which run; ``source`` is ``none`` where nothing is loaded.
        data: processed data set of the target.
        checkpoint: of the source; None to begin at the initialisation.
        spec, init: see `prrmse.nets.initialisation.initialised_network`.
        compute: where and in which dtype.
    """

    net: str
    target: str
    samples: int
    source: str
    seed: int
    data: Path
    checkpoint: Path | None
    spec: Network
    init: str
    compute: Compute

    def load(self) -> tuple[nn.Module, Slices, Evaluation]:
        """The network at this run's initialisation, the drawn training slices, the validation slices.

        Raises:
            InputError: as `load_slices`.
        """
        network = initialised_network(self.net, self.spec, self.init, self.target, self.seed)
        return network, draw_patients(self.slices, self.samples, self.seed), self.on("val")

    @cached_property
    def slices(self) -> Slices:
        """All of the target's data set."""
        return load_slices(self.data)

    def on(self, split: str) -> Evaluation:
        """The slices of a split as the network takes them."""
        return Evaluation.of_split(self.slices, split, self.compute, self.spec)

    def reuse(self, network: nn.Module, layers: Iterable[Layer]) -> list[Layer]:
        """Take these pairs from the source, and return them.

        Without a source the network stays as it is, and running statistics are left out of what is returned: those of
        an untrained network were never estimated.
        """
        if self.checkpoint is None:
            return [layer for layer in layers if layer.kind not in ("RM", "RV")]
        layers = list(layers)
        network.load_state_dict(swap(network.state_dict(), load_checkpoint(self.checkpoint)[0], layers))
        return layers
