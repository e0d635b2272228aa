"""The tool as a library: your network, your checkpoints, your own way to evaluate.

Examples:
    >>> import torch
    >>> from prrmse.api import sweep
    >>> network, source = (torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.ReLU()) for _ in range(2))
    >>> @torch.no_grad()
    ... def evaluate(model):  # your own: a score, larger is better, or one for each case
    ...     return {"case 1": model(torch.ones(1, 1, 4, 4)).mean(), "case 2": model(torch.zeros(1, 1, 4, 4)).mean()}
    >>> table = sweep(network, source.state_dict(), evaluate)
    >>> table[["kind", "layer", "case"]].to_dict("split")["data"]
    [['W', 1, 'case 1'], ['W', 1, 'case 2'], ['B', 1, 'case 1'], ['B', 1, 'case 2']]
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from safetensors import safe_open
from torch import nn
from tqdm import tqdm

from prrmse.compare.distance import distance_table
from prrmse.compare.features import Pixels, sample_pixels
from prrmse.compare.first_order import screen_table
from prrmse.config.checks import checked
from prrmse.data.slices import Slices, draw_patients
from prrmse.engine.sweep import sweep as swept_counts
from prrmse.engine.until import Rule, sweep_until_decided
from prrmse.errors import InputError
from prrmse.experiments.transferability import Watch, feature_scores
from prrmse.files import atomic
from prrmse.handover.start import Frozen as Frozen
from prrmse.handover.start import apply_start as apply_start
from prrmse.learning.device import choose_device
from prrmse.learning.dice import dice_table
from prrmse.learning.evaluate import Evaluation, output_of, prediction_of
from prrmse.learning.reach import reaching, without_effect
from prrmse.learning.snapshot import discard, snapshot_of
from prrmse.learning.training_run import training_run
from prrmse.log import in_words
from prrmse.names import Layer
from prrmse.nets.build import NETS, seeded_network
from prrmse.nets.checkpoint import layers_of, write_state
from prrmse.nets.foreign import fit, read_state
from prrmse.nets.layers import fill, inventory, inventory_of_state, replaced, swap, without_kind
from prrmse.nets.pretrained import load_pretrained
from prrmse.outputs import check_outputs
from prrmse.seeding import derive_seed
from prrmse.settings import Compute, FrozenStatistics, Pretrained, Stopping, Training, Verdict
from prrmse.tables.bootstrap import bootstrap_mean
from prrmse.tables.verdict import drops_by_patient, is_reusable, mean_drops

log = logging.getLogger(__name__)

Score = float | Mapping[str, float]
Evaluate = Callable[[nn.Module], Score] | Evaluation
StateLike = Mapping[str, torch.Tensor] | str | Path

PAIR = ["kind", "layer", "module", "tensor", "scalars", "final", "effect"]
PIXELS = 4000
# Heights and widths that `reaching_pairs` tries, and depths up to `DEEPEST`.
SIZES = (32, 64, 96, 128, 224, 256)
DEEPEST = 128


def inspect(checkpoint: StateLike | nn.Module) -> pd.DataFrame:
    """The (kind, layer) pairs of a network, or of a checkpoint whose network need not be at hand.

    Layers are numbered in the network's order; for a foreign ``.safetensors`` file, in which tensors are sorted by
    name, in that order.

    Returns:
        One row per pair: kind, layer, module, tensor, scalars, shape, mean, sd. A tensor of several names is one row,
        by the first. ``attrs["without_kind"]``: scalars of each further parameter that is in no pair (a linear layer's,
        an embedding), by name; of a checkpoint, of each floating-point tensor.
    """
    if isinstance(checkpoint, nn.Module):
        state, layers = dict(checkpoint.state_dict()), inventory(checkpoint)
        parameters: Mapping[str, torch.Tensor] = dict(checkpoint.named_parameters())
    else:
        state, layers = _read(checkpoint)
        parameters = state
    table = pd.DataFrame([layer._asdict() for layer in layers], columns=list(Layer._fields)).drop(columns="final")
    values = [state[layer.tensor].double() for layer in layers]
    table["shape"] = ["x".join(map(str, v.shape)) for v in values]
    table["mean"] = [float(v.mean()) for v in values]
    table["sd"] = [float(v.std(correction=0)) for v in values]
    table.attrs["without_kind"] = without_kind(parameters, layers)
    return table


def compare(a: StateLike, b: StateLike) -> tuple[pd.DataFrame, pd.DataFrame]:
    """How far two checkpoints of one network lie apart, and which of their tensors fit each other.

    Returns:
        `distance_table` of the pairs that fit, with ``attrs["without_kind"]`` of a, as `inspect` has it; and the table
        of `prrmse.nets.foreign.fit`, b's tensors offered to a.
    """
    own, all_layers = _read(a)
    fitted, table = fit(own, state_of(b))
    layers = [layer for layer in all_layers if layer.tensor in fitted]
    names = pd.DataFrame([layer._asdict() for layer in layers], columns=list(Layer._fields))
    own_arrays, other_arrays = (_arrays(state, names["tensor"]) for state in (own, fitted))
    distances = distance_table(own_arrays, other_arrays, names)
    distances.attrs["without_kind"] = without_kind(own, all_layers)
    return distances, table


def sweep(
    model: nn.Module,
    source: StateLike,
    evaluate: Evaluate,
    *,
    layers: Iterable[Layer] | None = None,
    engine: str = "fast",
    memory_mb: float = 2000,
    until_decided: float | None = None,
    stopping: Stopping = "guaranteed",
    tolerance: float | None = None,
    progress: bool = False,
) -> pd.DataFrame:
    """Take each pair from the source, alone, and evaluate.

    Args:
        model: the target; as it was afterwards.
        source: a state or a file; what does not fit the model is left out.
        evaluate: called with the model, which it must not train; a score (larger is better), or one per case. Or an
            `Evaluation`, which is many times faster, since it shares what does not change.
        layers: the pairs; all that fit, if not given.
        engine: see `prrmse.engine.sweep.sweep`; for an `Evaluation` only.
        memory_mb: the same.
        until_decided: measure each pair on as many cases as it takes to tell whether its mean drop is within the
            tolerance, and no more, with this rate of verdicts that may be otherwise on all cases
            (`prrmse.engine.until`). All cases if None. For an `Evaluation` only.
        stopping: of ``until_decided``: whether the rate is ``guaranteed``, or that of a t test, which supposes
            ``normal`` drops and misses what fails on few cases only.
        tolerance: of ``until_decided``; that of `prrmse.settings.Verdict` if None.
        progress: show a bar.

    Returns:
        One row per (pair, case): kind, layer, module, tensor, scalars, final, effect, case, score, baseline; with
        ``until_decided`` no row for a case on which a pair was not measured. ``attrs["baseline"]``: the model's own
        score by case, of all cases; ``attrs["measured"]``: number of cases on which each pair was, by tensor.
        ``effect`` is False for a tensor that cannot change the network's output (`prrmse.learning.reach`): heads of
        deep supervision, auxiliary classifiers. Then an unchanged score says nothing. For an ``evaluate`` of your own,
        it is found out with the input of its first call of the model; True where it does not call it. It is True for a
        tensor that could change the output but whose contribution other values of the model now set to zero: behind a
        gain of 0, before a ReLU whose inputs are all negative. Its score is unchanged, too.

    Raises:
        ValueError: nothing of the source fits; or ``evaluate`` changes the model.
        InputError: ``until_decided`` is no error rate, or asked for an ``evaluate`` of your own.
    """
    if until_decided is not None:
        check_until_decided(until_decided, stopping)
        if not isinstance(evaluate, Evaluation):
            raise InputError("<until_decided>: needs a prrmse.learning.evaluate.Evaluation, whose cases are patients")
    fitted, _ = fit(model.state_dict(), state_of(source))
    wanted = inventory(model) if layers is None else list(layers)
    chosen = [layer for layer in wanted if layer.tensor in fitted]
    if not chosen:
        raise ValueError("nothing of the source fits the model; prrmse compare shows what is there")
    every = [layer.tensor for layer in inventory(model)]
    measured: dict[str, int] = {}
    if isinstance(evaluate, Evaluation):
        if until_decided is None:
            swept = swept_counts(model, fitted, chosen, evaluate, engine=engine, memory_mb=memory_mb)
            baseline, counts = evaluate.rebased(model, *swept)
        else:
            settings = Verdict() if tolerance is None else checked(Verdict, tolerance=tolerance)
            rule = Rule(settings.tolerance, until_decided, stopping)
            changes = [{layer.tensor: fitted[layer.tensor]} for layer in chosen]
            baseline, counts, rows = sweep_until_decided(
                model, changes, evaluate, rule, engine=engine, memory_mb=memory_mb
            )
            measured = {layer.tensor: int(row.sum()) for layer, row in zip(chosen, rows, strict=True)}
        scores = [_mean_dice(evaluate, found) for found in (baseline, *counts)]
        ineffective = without_effect(model, every, evaluate.whole.image[:1])
    else:
        own_score, ineffective = _first_score(model, evaluate, every)
        scores = [own_score]
        for layer in tqdm(chosen, disable=not progress, unit="swap"):
            scores.append(_score_with(model, {layer.tensor: fitted[layer.tensor]}, evaluate))
    final = {layer.tensor for layer in inventory(model, ineffective) if layer.final}
    tables = []
    for layer, score in zip(chosen, scores[1:], strict=True):
        table = pd.DataFrame({"case": list(score), "score": list(score.values())})
        table["baseline"] = table["case"].map(scores[0])
        named = {**layer._asdict(), "final": layer.tensor in final, "effect": layer.tensor not in ineffective}
        tables.append(table.assign(**named))
    found = pd.concat(tables, ignore_index=True)[[*PAIR, "case", "score", "baseline"]]
    cases = len(evaluate.patients) if isinstance(evaluate, Evaluation) else len(scores[0])
    found.attrs |= {"baseline": scores[0], "measured": {x.tensor: measured.get(x.tensor, cases) for x in chosen}}
    return found


def check_until_decided(rate: float, stopping: str, rule: str = "mean") -> None:
    """Refuse what is no rate of wrong verdicts, no way to stop, and a verdict that is not by the mean drop.

    Raises:
        InputError: the rate is not between 0 and 0.5, there is no such way, or ``rule`` is another than ``mean``.
    """
    if rule != "mean":
        raise InputError("<until_decided>: decides by the mean drop; leave out <rule> or <until_decided>")
    if stopping not in get_args(Stopping):
        raise InputError(f"<stopping>: {stopping}; name one of {', '.join(get_args(Stopping))}")
    if not 0 < rate < 0.5:
        raise InputError(f"<until_decided>: {rate:g} is no rate of wrong verdicts; name one between 0 and 0.5, as 0.05")


def screen(model: nn.Module, sources: Mapping[str, StateLike], evaluation: Evaluation) -> pd.DataFrame:
    """In which order would swaps harm? One backward pass of the target, for all pairs of all sources.

    Args:
        model: the target.
        sources: states or files by name; what does not fit the model is left out.
        evaluation: labelled slices of the target.

    Returns:
        `prrmse.compare.first_order.screen_table` of the pairs that reach the output: ``first_order`` is how far taking
        the pair could move the cross-entropy for each pixel of foreground, to first order. It is no drop: of a pair
        that is reusable and one that is not, the latter has the larger estimate in nine of ten comparisons, and below
        `prrmse.compare.first_order.HARMLESS` none was harmful (docs/screen.md).

    Raises:
        ValueError: nothing of the sources fits.
        InputError: as `screen_table`.
    """
    own = model.state_dict()
    fitted = {name: fit(own, state_of(source))[0] for name, source in sources.items()}
    table = screen_table(model, fitted, evaluation, reaching(model, evaluation.whole.image[:1]))
    if table.empty:
        raise ValueError("nothing of the sources fits the model; prrmse compare shows what is there")
    return table


class Advice(NamedTuple):
    """What `advise` found.

    ``ranking``: one row per source, best first. ``verdicts``: one row per (source, pair), with ``reusable``.
    ``baseline``: the target's own score, mean over cases. Where it is at most twice the tolerance, hardly any drop is
    larger, and that nearly everything counts as reusable says nothing (`prrmse.tables.verdict.is_untrained`).
    """

    ranking: pd.DataFrame
    verdicts: pd.DataFrame
    baseline: float


def advise(
    model: nn.Module,
    sources: Mapping[str, StateLike],
    evaluate: Evaluate,
    *,
    settings: Verdict | None = None,
    engine: str = "fast",
    memory_mb: float = 2000,
    until_decided: float | None = None,
    stopping: Stopping = "guaranteed",
) -> Advice:
    """Which source, and which of its pairs, can be taken without a drop above the tolerance.

    Args:
        model: the target.
        sources: states or files by name.
        evaluate: as for `sweep`.
        settings: tolerance, the largest drop of the score at which a pair counts as reusable; rule, whether the mean
            drop is compared with it or the upper end of its interval; level and resamples of the bootstrap over cases.
            Defaults of the class if None.
        engine, memory_mb, until_decided, stopping: as for `sweep`. A pair that was not measured on all cases has no
            interval, and is reusable by the rule ``mean`` only.

    Returns:
        The ranking: source, reusable_pairs, reusable_scalars (shares, the final convolution and what has no effect left
        out: see `sweep`), joint_change
        (of the score, when all reusable pairs are taken at once, without training) with its interval and n_cases,
        rmse_relative (median over kernels), missing (pairs that the source does not have or that do not fit). For an
        `Evaluation` also the transferability scores (larger is better) of the source's features at `PIXELS` of its
        pixels: see `prrmse.compare.scores`. It is ordered by reusable_scalars, then by joint_change. It says what
        fits, not what training on will gain: which score ranks sources by that depends on the sources (docs/study.md),
        and none predicts a gain safely (docs/evidence.md).
    """
    settings = settings or Verdict()
    if until_decided is not None:
        check_until_decided(until_decided, stopping, settings.rule)
    everything = inventory(model)
    own = model.state_dict()
    pixels = (
        sample_pixels(evaluate, PIXELS, derive_seed("advise", "pixels")) if isinstance(evaluate, Evaluation) else None
    )
    verdicts: list[pd.DataFrame] = []
    ranking, baseline = [], np.nan
    for done, (name, source) in enumerate(sources.items(), start=1):
        begun = time.monotonic()
        fitted, _ = fit(own, state_of(source))
        table = sweep(
            model,
            fitted,
            evaluate,
            engine=engine,
            memory_mb=memory_mb,
            until_decided=until_decided,
            stopping=stopping,
            tolerance=settings.tolerance,
        )
        own_scores = pd.Series(table.attrs["baseline"])
        baseline = float(own_scores.mean())
        if not verdicts and isinstance(evaluate, Evaluation) and len(own_scores) < 2:
            log.warning("one patient only: intervals over patients say nothing; evaluate on more")
        drops = drops_by_patient(table.rename(columns={"case": "patient", "score": "dice"}), PAIR)
        verdict = mean_drops(drops, settings, "advise", name)
        verdict["n_cases"] = verdict["tensor"].map(table.attrs["measured"])
        verdict.loc[verdict["n_cases"] < verdict["n_cases"].max(), ["drop_low", "drop_high"]] = np.nan
        verdict["reusable"] = is_reusable(verdict, settings)
        verdict.insert(0, "source", name)
        verdicts.append(verdict)
        body = verdict[~verdict["final"] & verdict["effect"]]
        reused = [x for x in everything if x.tensor in set(body.loc[body["reusable"], "tensor"])]
        scalars = body["scalars"].sum()
        change = _joint_change(model, fitted, reused, evaluate)
        low, high = bootstrap_mean(change[None], settings, "advise", name, "joint")
        kernels = body[body["kind"] == "W"]
        distances = distance_table(_arrays(own, kernels["tensor"]), _arrays(fitted, kernels["tensor"]), kernels)
        ranking.append({
            "source": name,
            "reusable_pairs": body["reusable"].mean(),
            "reusable_scalars": (body["scalars"] * body["reusable"]).sum() / scalars if scalars else np.nan,
            "joint_change": np.nanmean(change) if np.isfinite(change).any() else np.nan,
            "joint_low": low[0],
            "joint_high": high[0],
            "n_cases": int(np.isfinite(change).sum()),
            "rmse_relative": distances["rmse_relative"].median(),
            "missing": len(everything) - len(verdict),
            **(_scores(model, fitted, evaluate, pixels) if isinstance(evaluate, Evaluation) and pixels else {}),
        })  # fmt: skip
        seconds, left = time.monotonic() - begun, len(sources) - done
        rest = f"{left} more to come, about {in_words(left * seconds)}" if left else "the last"
        log.info("%s: swept in %s; %s", name, in_words(seconds), rest)
    ordered = pd.DataFrame(ranking).sort_values(["reusable_scalars", "joint_change"], ascending=False)
    return Advice(ordered.reset_index(drop=True), pd.concat(verdicts, ignore_index=True), baseline)


class Trained(NamedTuple):
    """What `train` made: the network, its Dice by patient and class, and the patients that it was trained on."""

    network: nn.Module
    dice: pd.DataFrame
    patients: list[str]


def train(
    network: str,
    slices: Slices,
    path: str | Path | None = None,
    *,
    arguments: Mapping[str, Any] | None = None,
    pretrained: Pretrained | None = None,
    start: StateLike | None = None,
    entry: str | None = None,
    freeze: Iterable[str] = (),
    freeze_steps: int | None = None,
    frozen_statistics: FrozenStatistics = "both",
    samples: int | None = None,
    split: str = "val",
    settings: Training | None = None,
    compute: Compute | None = None,
    seed: int = 0,
    trust: bool = False,
) -> Trained:
    """Train a network on a data set's training patients, write its checkpoint, measure Dice on others.

    A training that is killed resumes where it stopped when it is called again with the same path.

    Args:
        network: ``unet``, ``pspnet`` or an import path ``module:callable``.
        slices: all splits of a data set.
        path: of the ``.safetensors`` file.
        arguments: keyword arguments of the network.
        pretrained: the network's own pretrained weights, loaded at its initialisation.
        start: a state or a file; what fits is taken, the rest begins at the network's own initialisation.
        entry: which state of the file ``start``, where it holds several (`prrmse.nets.foreign.read_state`).
        freeze: tensors of ``start`` that keep their value, by name, e.g. those that `warmstart` lists.
        freeze_steps: for so many of the steps only, after which all is trained, with a full learning rate again (Kumar
            et al. 2022, LP-FT); for all of them if None.
        frozen_statistics: what becomes of running statistics among them (`prrmse.learning.freeze.Freezing`).
        samples: number of training patients, sampled with ``seed``; all if None.
        split: that Dice is measured on: ``val``, ``test``, ``train`` or ``all``.
        settings: of the training; defaults of the class if None.
        compute: the same.
        seed: of initialisation, patients and batches.
        trust: run the network's code wherever it comes from (`prrmse.nets.build.build_network`).

    Raises:
        InputError: nothing of ``start`` fits; a tensor to freeze that it does not bring; a split without slices; a
            network that does not take the slices.
    """
    settings, compute = settings or Training(), compute or Compute()
    if path is not None:
        check_outputs({"out": path}, (start,))
    if samples is not None and samples < 1:
        raise InputError(f"<samples>: {samples} training patients; name 1 or more, or leave it out for all")
    available = len(part_of(slices, "train").patients())
    if samples is not None and samples > available:
        log.warning("%d training patients were asked for, there are %d; all are taken", samples, available)
    arguments = dict(arguments or {})
    model = f"{slices.meta['dataset']}-seg"
    made = seeded_network(network, arguments, network, "init", "", seed, trust=trust)
    if pretrained is not None:
        load_pretrained(network, made, pretrained)
    taken: Mapping[str, torch.Tensor] = {}
    name = str(start) if isinstance(start, str | Path) else "the start"
    if start is not None:
        taken, _ = fit(made.state_dict(), state_of(start, entry))
        if not taken:
            raise InputError(f"{name}: nothing in it fits {network}; see prrmse compare")
        log.info("%d of %d tensors are from %s", len(taken), len(made.state_dict()), name)
        made.load_state_dict({**made.state_dict(), **taken})
    chosen = set(freeze)
    frozen = [layer for layer in inventory(made) if layer.tensor in chosen]
    if unknown := chosen - {layer.tensor for layer in frozen}:
        raise InputError(f"<freeze>: names {sorted(unknown)[0]}, which {network} does not have")
    if strange := [layer.tensor for layer in frozen if layer.tensor not in taken]:
        raise InputError(f"<freeze>: names {strange[0]}, which <start> does not bring; name its file there")
    if freeze_steps is not None and not (chosen and 0 < freeze_steps < settings.steps):
        raise InputError(f"<freeze_steps>: {freeze_steps}; name a number below <steps> {settings.steps}, and <freeze>")
    evaluation = evaluation_for(made, part_of(slices, split), compute)
    check_output(made, evaluation)
    drawn = draw_patients(slices, available if samples is None else samples, seed)
    header: dict[str, Any] = {
        "net": network,
        "arguments": arguments,
        **({} if network in NETS else {"factory": network}),
    }
    header |= {
        "model": model,
        "seed": seed,
        "params": {"train": settings.model_dump(), "compute": compute.model_dump()},
    }
    header |= {"start": None if start is None else name, "entry": entry, "freeze": sorted(chosen)}
    header |= {"pretrained": None if pretrained is None else pretrained.model_dump(), "freeze_steps": freeze_steps}
    header |= {"frozen_statistics": frozen_statistics, "trained_on": drawn.patients()}
    header |= {"data": {"fingerprint": slices.fingerprint(), **slices.meta}}
    out = None if path is None else Path(path)
    table = training_run(
        made,
        drawn,
        evaluation,
        "seg",
        settings,
        derive_seed(network, model, "train", seed),
        compute,
        frozen=frozen,
        frozen_statistics=frozen_statistics,
        frozen_steps=freeze_steps,
        title=f"{network} {model}",
        resume=None if out is None else snapshot_of(out),
        checkpoint=out,
        header=header,
    )
    if out is not None:
        discard(snapshot_of(out))
    return Trained(made, table, drawn.patients())


def part_of(slices: Slices, split: str) -> Slices:
    """The slices of a split; ``all`` is every one.

    Raises:
        InputError: there are none.
    """
    part = slices if split == "all" else slices.split(split)
    if not len(part.image):
        raise InputError(f"{slices.meta['dataset']}: no slices in <split> {split}; try <split> all")
    return part


def evaluation_for(network: nn.Module, slices: Slices, compute: Compute | None = None) -> Evaluation:
    """The slices, for a network with as many image channels and classes as it has; they are found by trying.

    Raises:
        InputError: the network does not take a slice, or has fewer outputs than the data set classes.
    """
    name = type(network).__name__
    compute = compute or Compute()
    first = next((x for x in network.state_dict().values() if x.ndim == slices.stacked.ndim), None)
    image_channels = int(first.shape[1]) if first is not None else 1
    image = torch.zeros(1, image_channels, *slices.label.shape[1:])
    device = choose_device(compute.device)  # on a CPU a 3D patch takes seconds
    try:
        with torch.inference_mode():
            output = copy.deepcopy(network.eval()).to(device)(image.to(device))
            prediction_of(output)
    except Exception as e:
        cause = next(iter(str(e).strip().splitlines()), type(e).__name__)
        raise InputError(f"{name}: the network does not take a slice {tuple(image.shape)}: {cause}") from None
    channels = output_of(output).shape[1]
    if max(slices.classes) >= channels:
        classes = max(slices.classes) + 1
        raise InputError(f"{slices.meta['dataset']}: has {classes} classes with the background, the network {channels}")
    return Evaluation(slices, compute, channels, image_channels)


def check_output(network: nn.Module, evaluation: Evaluation) -> None:
    """Refuse a network that makes no map of classes, e.g. one that classifies images.

    Raises:
        InputError: its output has not the size of a slice or patch.
    """
    image = torch.zeros(1, evaluation.image_channels, *evaluation.whole.label.shape[1:])
    with torch.inference_mode():
        shape = tuple(output_of(network.eval()(image)).shape)
    if shape[2:] != image.shape[2:]:
        raise InputError(
            f"{type(network).__name__}: makes {shape} of a slice {tuple(image.shape)}; Dice needs a score for each "
            "class and pixel, (1, classes, height, width), so name a segmentation network"
        )


def reaching_pairs(model: nn.Module) -> list[Layer]:
    """The pairs of a network that reach its output; ``final`` are those of the convolution that makes it.

    Found by running the network on noise of the sizes in `SIZES`, the first that it takes. Where it takes none, all
    pairs are returned, with a warning, and the convolution that is registered last counts as final.
    """
    layers = inventory(model)
    kernel = next((tensor for tensor in model.state_dict().values() if tensor.ndim >= 3), None)
    if kernel is not None:
        for size in (size for size in SIZES if kernel.ndim < 5 or size <= DEEPEST):
            image = torch.rand(
                1, kernel.shape[1], *[size] * (kernel.ndim - 2), generator=torch.Generator().manual_seed(0)
            )
            with contextlib.suppress(Exception):  # networks raise anything for a size that they do not take
                return reaching(model, image)
    log.warning("%s takes no image of the sizes tried; parts of it may not reach its output", type(model).__name__)
    return layers


def warmstart(
    model: nn.Module,
    source: StateLike,
    layers: Sequence[Layer],
    path: str | Path,
    *,
    frozen: Sequence[Layer] | None = None,
    note: str = "",
) -> dict[str, Any]:
    """Write the model's state with these pairs taken from the source, and beside it what to freeze.

    The file holds every name of the model's ``state_dict``, so that the model loads it: a tensor of several names
    several times.

    Args:
        model: the target at its initialisation.
        source: a state or a file.
        layers: the pairs to take; e.g. those an `Advice` calls reusable.
        path: of the ``.safetensors`` file; ``.json`` beside it lists ``reused`` tensors, those of them that are to be
            ``frozen``, ``freeze`` (parameters among these) and ``freeze_statistics`` (normalisations both of whose
            running statistics are).
        frozen: the pairs to freeze; all that are taken if None.
        note: kept in the list.

    Returns:
        The list.
    """
    check_outputs({"out": path}, (source,))
    own = model.state_dict()
    fitted, _ = fit(own, state_of(source))
    taken = [layer.tensor for layer in layers]
    state = swap(own, {name: tensor.to(own[name]) for name, tensor in fitted.items()}, layers)
    parameters = dict(model.named_parameters())
    kept = layers if frozen is None else frozen
    statistics = sorted({x.module for x in kept if x.kind == "RM"} & {x.module for x in kept if x.kind == "RV"})
    tensors = [layer.tensor for layer in kept]
    found: dict[str, Any] = {"reused": taken, "frozen": tensors, "freeze": [t for t in tensors if t in parameters]}
    found |= {"freeze_statistics": statistics}
    path = Path(path)
    listed = json.dumps({**found, "note": note}, indent=1) + "\n"
    with atomic(path) as weights, atomic(path.with_suffix(".json")) as json_file:
        write_state(state, weights, {"layers": [layer._asdict() for layer in inventory(model)]})
        json_file.write_text(listed)
    return found


def state_of(source: StateLike, entry: str | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a state, or of a file (`prrmse.nets.foreign.read_state`)."""
    return read_state(source, entry) if isinstance(source, str | Path) else dict(source)


def _read(source: StateLike) -> tuple[dict[str, torch.Tensor], list[Layer]]:
    """State and layers: in the network's order where the checkpoint tells it (ours do), else in that of its tensors."""
    state = state_of(source)
    if isinstance(source, str | Path) and Path(source).suffix == ".safetensors":
        with safe_open(source, framework="numpy") as f:
            header = (f.metadata() or {}).get("prrmse")
        if header:
            return state, layers_of(header, state, source)
    return state, inventory_of_state(state)


def _arrays(state: Mapping[str, torch.Tensor], names: Iterable[str]) -> dict[str, np.ndarray]:
    return {name: state[name].float().cpu().numpy() for name in names}


def _score(model: nn.Module, evaluate: Callable[[nn.Module], Score]) -> dict[str, float]:
    score = evaluate(model)
    return {str(k): float(v) for k, v in score.items()} if isinstance(score, Mapping) else {"all": float(score)}


def _score_with(
    model: nn.Module, change: Mapping[str, torch.Tensor], evaluate: Callable[[nn.Module], Score]
) -> dict[str, float]:
    """The score with these tensors in the place of the model's own."""
    with replaced(model, change):
        return _score(model, evaluate)


def _first_score(
    model: nn.Module, evaluate: Callable[[nn.Module], Score], tensors: Iterable[str]
) -> tuple[dict[str, float], set[str]]:
    """The score, and the tensors without effect on the output for the input of the first call (`without_effect`)."""
    seen: list[tuple[Any, Any]] = []

    def keep(_: nn.Module, inputs: Any, named: Any) -> None:
        if not seen:
            seen.append((inputs, named))

    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    handle = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        score = _score(model, evaluate)
    finally:
        handle.remove()
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor, before[name].to(tensor.device)):
            fill(model.state_dict(), before)
            raise ValueError(f"evaluate changes the model's {name}; call model.eval() in it, and do not train there")
    return score, without_effect(model, tensors, *seen[0][0], **seen[0][1]) if seen else set()


def _mean_dice(evaluation: Evaluation, counts: Any) -> dict[str, float]:
    table = dice_table(counts, evaluation.patients, evaluation.classes)
    rows = table[table["class"] == "mean"]
    return dict(zip(rows["patient"], rows["dice"], strict=True))


def _scores(
    model: nn.Module, fitted: Mapping[str, torch.Tensor], evaluation: Evaluation, pixels: Pixels
) -> dict[str, float]:
    """Of the source's features in the target's network. Whether its outputs are classes is not known: no LEEP."""
    source = copy.deepcopy(model)
    fill(source.state_dict(), fitted)
    return feature_scores(source.eval(), evaluation, pixels, Watch(), has_classes=False)


def _joint_change(
    model: nn.Module, fitted: Mapping[str, torch.Tensor], layers: Iterable[Layer], evaluate: Evaluate
) -> np.ndarray:
    """Change of the score of each case when all these pairs are taken at once."""

    def score(model: nn.Module) -> Score:
        return _mean_dice(evaluate, evaluate.own_counts(model)) if isinstance(evaluate, Evaluation) else evaluate(model)

    changes: list[dict[str, torch.Tensor]] = [{}, {layer.tensor: fitted[layer.tensor] for layer in layers}]
    found = [_score_with(model, change, score) for change in changes]
    return np.array([found[1].get(case, np.nan) - value for case, value in found[0].items()])
