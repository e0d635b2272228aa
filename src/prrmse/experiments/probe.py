"""Linear probe: how good a source's features are for the target, by the best head on top of them (ours).

All parameters but the final convolution's are those of the source. The head minimises the mean cross-entropy over the
pixels of the training slices plus L2 / 2 times the sum of its squared weights (not biases): a convex problem with one
solution, found by L-BFGS on stored features until the gradient vanishes. So the result depends on no learning rate,
number of steps or order of batches; a run's seed only draws the patients.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterator
from typing import NamedTuple

import pandas as pd
import torch
from torch import nn
from torch.nn import functional as F

from prrmse.data.slices import IGNORE
from prrmse.errors import InputError
from prrmse.learning.device import deterministic, forward_only
from prrmse.learning.evaluate import Evaluation, measure, output_of
from prrmse.learning.freeze import batch_norms, reestimate
from prrmse.learning.reach import reaching
from prrmse.learning.target import FewPatients

log = logging.getLogger(__name__)

L2 = 1e-5
GRADIENT = 1e-5  # largest component at which the head has converged
ITERATIONS = 2000
FLOATS = 2**24  # features that are taken to float64 at once


class Fit(NamedTuple):
    """Loss at the solution, the largest component of its gradient, iterations of L-BFGS."""

    loss: float
    gradient: float
    iterations: int


def probe(of: FewPatients) -> pd.DataFrame:
    """One run of the probe.

    Args:
        of: network, patients and source. Without a source, running statistics are first estimated on the training
            slices.

    Returns:
        As `prrmse.experiments.transfer.transfer_run`.

    Raises:
        InputError: the network has no final convolution, or something follows it.
    """
    network, drawn, validation = of.load()
    layers = reaching(network, validation.whole.image[:1])
    head = next((layer.module for layer in layers if layer.final and layer.kind == "W"), None)
    if head is None:
        raise InputError(f"evidence.nets: {of.net} has no final convolution to probe with; leave it out")
    training = Evaluation(drawn, of.compute, of.spec.classes, of.spec.image_channels)
    training.place(network)
    reused = of.reuse(network, [layer for layer in layers if not layer.final])
    if of.checkpoint is None:
        with deterministic(of.compute.threads), forward_only(training.device, training.dtype):
            reestimate(network, network, batch_norms(network), (batch.image for batch in training.batches))
    with deterministic(of.compute.threads):
        fit = fit_head(network, head, training)
    log.info(
        "%s probe %s seed %d: cross-entropy %.4f, gradient %.1e after %d iterations", of.net, of.source, of.seed, *fit
    )
    table = measure(network, validation, "seg")
    return table.assign(n_train=len(drawn.patients()), pairs_reused=len(reused))


def fit_head(network: nn.Module, head: str, training: Evaluation, l2: float = L2) -> Fit:
    """Set the head of a network to the one that fits the training slices best.

    Args:
        network: on the device, in evaluation mode; only its head is changed.
        head: path of the final convolution.
        training: the slices.
        l2: weight of the penalty.
    """
    own = network.get_submodule(head)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    inputs = head_inputs(network, own, training)
    solved = copy.deepcopy(own).double().requires_grad_(True)
    parameters = list(solved.parameters())
    pixels = (training.whole.label != IGNORE).sum()

    def gradient() -> torch.Tensor:
        """The loss; the gradient is left in the parameters."""
        for parameter in parameters:
            parameter.grad = None
        total = l2 / 2 * solved.get_parameter("weight").square().sum()
        total.backward()
        for x, y in zip(inputs, training.whole.label.split([len(x) for x in inputs]), strict=True):
            logits = solved(x.double()).movedim(1, -1).flatten(0, -2)
            loss = F.cross_entropy(logits, y.flatten(), ignore_index=IGNORE, reduction="sum") / pixels
            loss.backward()
            total = total.detach() + loss.detach()
        return total

    solver = torch.optim.LBFGS(
        parameters, max_iter=ITERATIONS, max_eval=2 * ITERATIONS, history_size=50, line_search_fn="strong_wolfe",
        tolerance_grad=GRADIENT, tolerance_change=0.0,
    )  # fmt: skip
    solver.step(gradient)
    loss = float(gradient())
    steepest = max(float(p.grad.abs().max()) for p in parameters if p.grad is not None)
    if not steepest <= GRADIENT:
        log.warning("the probe's head has not converged: gradient %.1e after %d iterations", steepest, ITERATIONS)
    own.load_state_dict(solved.float().state_dict())
    return Fit(loss, steepest, solver.state[parameters[0]]["n_iter"])


def head_inputs(network: nn.Module, head: nn.Module, training: Evaluation) -> list[torch.Tensor]:
    """What the head reads of the training slices, ``[n, C, H, W]`` each, float32, in parts of at most `FLOATS`.

    Raises:
        InputError: the head's output is not the network's, so that the loss cannot be computed from the head's output.
    """
    found: list[torch.Tensor] = []

    def keep(_: nn.Module, given: tuple[torch.Tensor, ...], made: torch.Tensor) -> None:
        found.append(given[0].float())
        made_by_head.append(made)

    made_by_head: list[torch.Tensor] = []
    hook = head.register_forward_hook(keep)
    with torch.no_grad(), forward_only(training.device, training.dtype):
        for batch in training.batches:
            output = output_of(network(batch.image))
            if len(made_by_head) != 1 or not torch.equal(made_by_head.pop(), output):
                raise InputError(
                    "evidence.nets: something follows the network's final convolution; it cannot be probed"
                )
    hook.remove()
    return list(_parts(found))


def _parts(tensors: list[torch.Tensor]) -> Iterator[torch.Tensor]:
    for tensor in tensors:
        yield from tensor.split(max(1, FLOATS // tensor[0].numel()))
