"""Evaluate a network on slices: Dice counts per patient, or MSE per patient."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from prrmse.data.slices import Slices
from prrmse.errors import InputError
from prrmse.learning.device import choose_device, choose_precision, forward_only
from prrmse.learning.dice import Counts, Masks, classes_of, dice_table
from prrmse.settings import Compute, Network


class Batch(NamedTuple):
    """Slices on the device: image ``[N, C, ...]``, label ``[N, ...]``, patient row ``[N]``."""

    image: torch.Tensor
    label: torch.Tensor
    patient: torch.Tensor

    def parts(self, slices: int) -> Iterator[Batch]:
        """Views of this many slices each."""
        return map(Batch, *(tensor.split(slices) for tensor in self))


def output_of(made: Any) -> torch.Tensor:
    """The logits ``[N, C, ...]`` in a network's output.

    A tensor is itself; of a list or tuple the first (deep supervision: the full resolution; a segmentation beside
    something else); of a dict ``out`` (torchvision's segmentation models), or else its only tensor.

    Raises:
        InputError: none of these; names what there is.
    """
    if isinstance(made, torch.Tensor):
        return made
    if isinstance(made, Sequence) and len(made) and not isinstance(made, str):
        return output_of(made[0])
    if isinstance(made, Mapping):
        if "out" in made:
            return output_of(made["out"])
        tensors = {key: value for key, value in made.items() if isinstance(value, torch.Tensor)}
        if len(tensors) == 1:
            return next(iter(tensors.values()))
        found = f"a dict of {', '.join(map(str, made)) or 'nothing'}"
    else:
        found = f"a {type(made).__name__}"
    raise InputError(f"the network's output is {found}; wrap it, so that it returns the logits or a dict with 'out'")


def prediction_of(made: Any) -> torch.Tensor:
    """Classes ``[N, ...]`` of what a network makes of ``[N, C, ...]``."""
    return classes_of(output_of(made))


def with_channels(image: torch.Tensor, channels: int) -> torch.Tensor:
    """The image ``[N, C, ...]`` as a network of this many channels takes it: a grey one is repeated.

    Raises:
        InputError: it has several channels, and not that many.
    """
    if image.shape[1] not in (1, channels):
        raise InputError(
            f"the images have {image.shape[1]} channels, the network takes {channels}; set in_channels of the network"
        )
    return image.expand(-1, channels, *[-1] * (image.ndim - 2))


def layout_of(dimensions: int) -> torch.memory_format:
    """The fastest memory format of images of 4 or 5 dimensions, and of their networks.

    With channels last, a step of nnU-Net's 3D network takes a third longer on a CPU.
    """
    return torch.contiguous_format if dimensions == 5 else torch.channels_last


def reconstruction_target(output: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """What each output channel of an auto-encoder regresses: the image (paper); of several channels, one in turn."""
    return image[:, torch.arange(output.shape[1], device=image.device) % image.shape[1]]


class Evaluation:
    """A set of slices, resident on the device, against which many networks are measured.

    Args:
        slices: e.g. the validation slices.
        compute: where, in which dtype and batch size.
        channels: classes including background.
        image_channels: that the network takes; a grey image is repeated.
    """

    def __init__(self, slices: Slices, compute: Compute, channels: int, image_channels: int = 1) -> None:
        self.device = choose_device(compute.device)
        self.dtype = choose_precision(compute.evaluation_precision, self.device)
        self.patients = slices.patients()
        self.classes = slices.classes
        self.channels = channels
        self.image_channels = image_channels
        rows = {p: i for i, p in enumerate(self.patients)}
        patient = torch.tensor([rows[p] for p in slices.index["patient"]], device=self.device)
        self.layout = layout_of(slices.stacked.ndim)
        image = with_channels(torch.from_numpy(slices.stacked).to(self.device), image_channels)
        image = image.contiguous(memory_format=self.layout)
        label = torch.from_numpy(slices.label).to(self.device, torch.int64)
        self.whole = Batch(image, label, patient)
        self._size = compute.evaluation_batch_size

    @property
    def batches(self) -> list[Batch]:
        """The slices, as many at once as `compute` says; views of ``whole``."""
        return list(self.whole.parts(self._size))

    @classmethod
    def of_split(cls, slices: Slices, split: str, compute: Compute, spec: Network) -> Evaluation:
        """On a split of a data set, for a network of ``nets``."""
        return cls(slices.split(split), compute, spec.classes, spec.image_channels)

    def of_patients(self, rows: Sequence[int] | np.ndarray) -> Evaluation:
        """The same on the slices of some patients only, whose rows in ``patients`` are given in ascending order."""
        other = copy.copy(self)
        other.patients = [self.patients[row] for row in rows]
        position = torch.full((len(self.patients),), -1, device=self.device)
        position[torch.as_tensor(rows, device=self.device)] = torch.arange(len(rows), device=self.device)
        chosen = position[self.whole.patient] >= 0
        image = self.whole.image[chosen]
        if self.layout is not torch.preserve_format:
            image = image.contiguous(memory_format=self.layout)
        other.whole = Batch(image, self.whole.label[chosen], position[self.whole.patient[chosen]])
        return other

    def as_written(self) -> Evaluation:
        """The same, with images and networks in the memory format in which they come instead of the fastest one.

        Another memory format sums in another order: only this one reproduces the rounding of a plain forward pass.
        Multi-channel images are copied.
        """
        other = copy.copy(self)
        other.layout = torch.preserve_format
        # Flattened first: a single channel has the strides of either memory format, so contiguous() would do nothing.
        image = self.whole.image
        other.whole = self.whole._replace(image=image.flatten().view(image.shape))
        return other

    @torch.inference_mode(False)  # also within inference mode: its tensors could not be trained or differentiated later
    def place(self, network: nn.Module) -> nn.Module:
        """The network on the device, in evaluation mode."""
        return network.to(self.device).to(memory_format=self.layout).eval()

    # A copy made in inference mode and placed outside would be neither, which no convolution takes.
    @torch.inference_mode(False)
    def placed_copy(self, network: nn.Module) -> nn.Module:
        """`place` of a copy."""
        return self.place(copy.deepcopy(network))

    def counts_of(self, outputs: Iterator[torch.Tensor]) -> Counts:
        """Dice counts of the outputs ``[N, C, ...]`` of all batches, in order; one synchronisation in all."""
        shape = (len(self.patients), self.channels)
        total = torch.zeros((3, *shape), dtype=torch.int64, device=self.device)
        for output, batch in zip(outputs, self.batches, strict=True):
            total += Masks(batch.label, batch.patient, shape).count_largest(output_of(output))
        return Counts(*total.cpu().numpy())

    @torch.inference_mode()
    def counts(self, network: nn.Module) -> Counts:
        """Dice counts of a network that `place` has seen."""
        with forward_only(self.device, self.dtype):
            return self.counts_of(network(batch.image) for batch in self.batches)

    def own_counts(self, network: nn.Module) -> Counts:
        """Dice counts of a plain forward pass, on batches of `compute`: what tables say of its own Dice."""
        plain = self.as_written()
        return plain.counts(plain.place(_as_saved(network)))

    def rebased(self, network: nn.Module, own: Counts, changed: Sequence[Counts]) -> tuple[Counts, list[Counts]]:
        """Counts of a sweep with `own_counts` in the place of its own.

        A fast sweep rounds in another order than a plain forward pass, so that a pixel in some ten thousand
        may fall to another class. One network has one Dice all the same: its own counts, and those of every change
        that changed nothing, become `own_counts`. The other changes keep the sweep's rounding.

        Args:
            network: the target.
            own, changed: what `prrmse.engine.sweep.sweep` found.
        """
        plain = self.own_counts(network)
        return plain, [plain if all(map(np.array_equal, counts, own)) else counts for counts in changed]

    @torch.inference_mode()
    def squared_error(self, network: nn.Module) -> np.ndarray:
        """Mean squared error per patient ``[P]``: every output channel against the image (paper's auto-encoder)."""
        total = torch.zeros(len(self.patients), dtype=torch.float64, device=self.device)
        number = torch.zeros_like(total)
        with forward_only(self.device, self.dtype):
            for batch in self.batches:
                output = output_of(network(batch.image)).float()
                error = (output - reconstruction_target(output, batch.image)).square().mean((1, 2, 3)).double()
                total.index_add_(0, batch.patient, error)
                number.index_add_(0, batch.patient, torch.ones_like(error))
        return (total / number).cpu().numpy()


def measure(network: nn.Module, evaluation: Evaluation, task: str) -> pd.DataFrame:
    """Per patient: Dice by class (patient, class, dice), or for ``auto`` the MSE (patient, class ``mean``, mse)."""
    if task == "auto":
        plain = evaluation.as_written()
        mse = plain.squared_error(plain.place(_as_saved(network)))
        return pd.DataFrame({"patient": evaluation.patients, "class": "mean", "mse": mse})
    return dice_table(evaluation.own_counts(network), evaluation.patients, evaluation.classes)


def _as_saved(network: nn.Module) -> nn.Module:
    """A copy in the memory format that a checkpoint brings tensors in: another one adds up in another order."""
    copied = copy.deepcopy(network)
    for tensor in (*copied.parameters(), *copied.buffers()):
        tensor.data = tensor.data.flatten().view(tensor.shape)
    return copied
