"""The commands of ``prrmse`` that look at networks and checkpoints: a thin face over `prrmse.api`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from prrmse import api
from prrmse.data.prepare import prepare
from prrmse.data.slices import Slices, draw_patients, load_slices
from prrmse.errors import InputError
from prrmse.experiments.base import provenance
from prrmse.learning.device import make_deterministic
from prrmse.learning.dice import dice_table
from prrmse.learning.evaluate import Evaluation, output_of, prediction_of
from prrmse.learning.train import train as train_network
from prrmse.names import Layer
from prrmse.nets.build import NETS, build_network
from prrmse.nets.checkpoint import load_network, save_checkpoint
from prrmse.nets.foreign import fit, read_state
from prrmse.nets.layers import inventory
from prrmse.nets.start import initialise
from prrmse.seeding import derive_seed
from prrmse.tables.means import mean_over_patients

log = logging.getLogger(__name__)


def inspect(a: argparse.Namespace) -> None:
    """Print the pairs of a checkpoint."""
    show(api.inspect(a.checkpoint), a)


def compare(a: argparse.Namespace) -> None:
    """Print the distances of two checkpoints, what does not fit, and draw."""
    distances, fits = api.compare(a.a, a.b)
    odd = fits[fits["status"] != "same"]
    if distances.empty:
        raise InputError(f"{a.b}: nothing in it fits {a.a}; are both of one network?")
    if a.figure:
        from prrmse.figures.tool import distances_by_layer

        distances_by_layer(distances, a.figure)
    if a.json:
        print(json.dumps({"distances": records(distances), "does_not_fit": records(odd)}, indent=1))
        return
    show(distances, a)
    if len(odd):
        print(f"\n{len(odd)} tensors are not the same in both:")
        show(odd, a)


def sweep(a: argparse.Namespace) -> None:
    """Print the change of Dice when each pair is taken from the source."""
    network = target_network(a)
    fitted = fitting(network, a.source, a.target)
    evaluation = evaluation_for(network, part_of(slices_of(a), a.split, a), a)
    table = api.sweep(network, fitted, evaluation, engine=a.engine, memory_mb=a.memory_mb)
    means = table.groupby(api.PAIR, sort=False)[["baseline", "score"]].mean().reset_index()
    means["drop"] = means["baseline"] - means["score"]
    if a.table:
        table.to_csv(a.table, index=False)
    if a.figure:
        from prrmse.figures.tool import drops_by_layer

        drops_by_layer(means, a.tolerance, a.figure)
    show(means, a)


def advise(a: argparse.Namespace) -> None:
    """Rank sources for a target; write the advice."""
    network = target_network(a)
    evaluation = evaluation_for(network, part_of(slices_of(a), a.split, a), a)
    names = short_names(a.sources)
    for path in a.sources:  # before any of them takes minutes
        fitting(network, path, a.target)
    advice = api.advise(
        network, names, evaluation, tolerance=a.tolerance, rule=a.rule, engine=a.engine, memory_mb=a.memory_mb
    )
    found = {
        "target": str(a.target),
        "tolerance": a.tolerance,
        "rule": a.rule,
        "sources": {name: str(path) for name, path in names.items()},
        "ranking": records(advice.ranking),
        "verdicts": records(advice.verdicts),
    }
    if a.out:
        Path(a.out).write_text(json.dumps(found, indent=1) + "\n")
    if a.json:
        print(json.dumps(found, indent=1))
        return
    show(advice.ranking, a)
    best = advice.ranking.iloc[0]
    print(
        f"\nBest fit: {best['source']}. {best['reusable_scalars']:.0%} of its parameters can be taken with a mean loss "
        f"of at most {a.tolerance:g} Dice each; all of them at once change Dice by {best['joint_change']:+.3f} "
        f"({best['joint_low']:+.3f} to {best['joint_high']:+.3f}, {best['n_cases']:.0f} patients) without any training."
    )


def warmstart(a: argparse.Namespace) -> None:
    """Write the target's state, or that of a new network, with the advised pairs of a source."""
    if not (a.target or a.network):
        raise InputError("warmstart: name a checkpoint to start from, or --network to draw a new one")
    network = target_network(a) if a.target else new_network(a)
    layers = inventory(network)
    if a.advice:
        layers, source = advised(a, layers)
    else:
        if not a.source:
            raise InputError("warmstart: name --source and what to take, or --advice")
        source = a.source
        fitted, _ = fit(network.state_dict(), read_state(source))
        layers = [layer for layer in layers if layer.tensor in fitted and (a.reuse_final or not layer.final)]
    excluded = set(a.exclude.split(",")) if a.exclude else set()
    unknown = excluded - {f"{layer.kind}{layer.layer}" for layer in inventory(network)}
    if unknown:
        raise InputError(f"warmstart: --exclude {', '.join(sorted(unknown))}: no such pair; see prrmse inspect")
    layers = [layer for layer in layers if f"{layer.kind}{layer.layer}" not in excluded]
    found = api.warmstart(network, source, layers, a.out, note=f"{len(layers)} pairs from {source}")
    if a.json:
        print(json.dumps(found, indent=1))
    else:
        print(f"{a.out}: {len(layers)} pairs from {source}; what to freeze is in {Path(a.out).with_suffix('.json')}")


def train(a: argparse.Namespace) -> None:
    """Train a network on the training patients, write it, print Dice on the others."""
    network = new_network(a)
    slices = slices_of(a)
    training, measured = (part_of(slices, split, a) for split in ("train", a.split))
    model = f"{Path(a.data).stem}-seg"
    taken = fitting(network, a.start, a.network) if a.start else {}
    network.load_state_dict({**network.state_dict(), **taken})
    layers = inventory(network)
    frozen = frozen_layers(a.freeze, layers) if a.freeze else []
    strange = [layer.tensor for layer in frozen if layer.tensor not in taken]
    if strange:
        raise InputError(f"{a.freeze}: names {strange[0]}, which --start {a.start or ''} does not bring; name its file")
    if a.start:
        log.info("%d of %d tensors are from %s", len(taken), len(network.state_dict()), a.start)
    evaluation = evaluation_for(network, measured, a)
    drawn = draw_patients(slices, a.samples or len(training.patients()), a.seed)
    settings = {"steps": a.steps, "batch_size": a.batch, "learning_rate": a.learning_rate, "weight_decay": 0.0}
    settings |= {"loss": "ce+dice", "augment": a.augment}
    out, image_channels = Path(a.out), evaluation.batches[0].image.shape[1]
    out.parent.mkdir(parents=True, exist_ok=True)
    train_network(
        network,
        drawn,
        "seg",
        settings,
        derive_seed(a.network, model, "train", a.seed),
        compute_of(a),
        image_channels=image_channels,
        frozen=frozen,
        title=f"{a.network} {model}",
        resume=out.parent / f".{out.stem}.resume",
    )
    table = dice_table(evaluation.counts(evaluation.place(network)), evaluation.patients, evaluation.classes)
    spec = {"arguments": network_arguments(a), **({} if a.network in NETS else {"factory": a.network})}
    header = {"net": a.network, "model": model, "seed": a.seed, "params": settings}
    header |= {"start": a.start, "freeze": a.freeze, "trained_on": drawn.patients()}
    save_checkpoint(network.cpu(), out, {**header, **provenance(network, spec, slices, compute_of(a))})
    show(mean_over_patients(table, ["class"]).assign(n_train=len(drawn.patients())), a)


def frozen_layers(path: str, layers: list[Layer]) -> list[Layer]:
    """The pairs that a list of `warmstart` names."""
    try:
        reused = set(json.loads(Path(path).read_text())["reused"])
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; prrmse warmstart writes it") from None
    except (ValueError, KeyError, TypeError) as e:
        raise InputError(f"{path}: not a list of prrmse warmstart ({e})") from None
    unknown = reused - {layer.tensor for layer in layers}
    if unknown:
        raise InputError(f"{path}: names {sorted(unknown)[0]}, which the network does not have")
    return [layer for layer in layers if layer.tensor in reused]


def advised(a: argparse.Namespace, layers: list[Layer]) -> tuple[list[Layer], str]:
    """The pairs that an advice calls reusable, and the file of their source."""
    try:
        advice = json.loads(Path(a.advice).read_text())
        name = a.source or advice["ranking"][0]["source"]
        taken = {v["tensor"] for v in advice["verdicts"] if v["source"] == name and v["reusable"]}
        path = advice["sources"][name]
    except FileNotFoundError:
        raise InputError(f"{a.advice}: no such file; write it with prrmse advise --out") from None
    except (ValueError, KeyError, TypeError, IndexError) as e:
        raise InputError(f"{a.advice}: not an advice, or has no such source ({e})") from None
    return [x for x in layers if x.tensor in taken and (a.reuse_final or not x.final)], path


def short_names(paths: list[str]) -> dict[str, str]:
    """Paths by what tells them apart: no common folder, no ending."""
    if len(set(paths)) < len(paths):
        raise InputError(f"advise: a source is named twice: {', '.join(paths)}")
    common = os.path.commonpath([str(Path(path).parent) for path in paths])
    names = {str(Path(os.path.relpath(path, common)).with_suffix("")): path for path in paths}
    return names if len(names) == len(paths) else {path: path for path in paths}


def fitting(network: nn.Module, path: str, target: str) -> dict[str, torch.Tensor]:
    """What of a checkpoint fits the network; at least something."""
    fitted, _ = fit(network.state_dict(), read_state(path))
    if not fitted:
        raise InputError(f"{path}: nothing in it fits {target}; see prrmse compare")
    return fitted


def target_network(a: argparse.Namespace) -> nn.Module:
    """The target: a checkpoint of ours rebuilds itself; for any other the network is named."""
    if a.network is None:
        if Path(a.target).suffix != ".safetensors":
            raise InputError(f"{a.target}: not a checkpoint of this program; name its network with --network")
        try:
            return load_network(a.target)[0]
        except InputError as e:
            raise InputError(f"{e}; if it is of another program, name its network with --network") from None
    network = build_network(a.network, network_arguments(a))
    fitted, table = fit(network.state_dict(), read_state(a.target))
    odd = table[~table["status"].isin(["same", "surplus"]) & ~table["tensor"].str.endswith("num_batches_tracked")]
    if len(odd) and not a.partial:
        raise InputError(
            f"{a.target}: does not fit {a.network}: {len(odd)} of {len(table)} tensors, first {odd.iloc[0]['tensor']} "
            f"({odd.iloc[0]['status']}: {odd.iloc[0]['shape']}, not {odd.iloc[0]['shape_other'] or 'there'}); mend "
            "--arguments, or go on without them with --partial"
        )
    network.load_state_dict({**network.state_dict(), **fitted})
    return network.eval()


def new_network(a: argparse.Namespace) -> nn.Module:
    """A network at a start that depends on its name and ``--seed`` alone."""
    factory = None if a.network in NETS else a.network
    return initialise(a.network, network_arguments(a), "independent", "none", "", a.seed, factory)


def network_arguments(a: argparse.Namespace) -> dict[str, Any]:
    """``--arguments``."""
    try:
        arguments = json.loads(a.arguments)
        if not isinstance(arguments, dict):
            raise ValueError("not an object")
    except ValueError as e:
        raise InputError(f'--arguments: not a JSON object such as {{"num_classes": 4}} ({e})') from None
    return arguments


def evaluation_for(network: nn.Module, slices: Slices, a: argparse.Namespace) -> Evaluation:
    """The slices, for a network with as many image channels and classes as it has."""
    name = getattr(a, "target", a.network)
    first = next((x for x in network.state_dict().values() if x.ndim == 4), None)
    image_channels = int(first.shape[1]) if first is not None else 1
    make_deterministic(a.threads)
    image = torch.zeros(1, image_channels, *slices.image.shape[-2:])
    try:
        with torch.inference_mode():
            output = network.eval()(image)
            prediction_of(output)
    except Exception as e:
        raise InputError(f"{name}: the network does not take a slice {tuple(image.shape)}: {e}") from None
    channels = output_of(output).shape[1]
    if slices.label.max() >= channels:
        raise InputError(f"{a.data}: has {slices.label.max() + 1} classes with the background, the network {channels}")
    return Evaluation(slices, compute_of(a), channels, image_channels)


def compute_of(a: argparse.Namespace) -> dict[str, Any]:
    """The options as a section ``compute`` of params."""
    return {
        "device": a.device,
        "precision": a.precision,
        "threads": a.threads,
        "evaluation_batch_size": a.batch,
        "resume_seconds": 60,
    }


def slices_of(a: argparse.Namespace) -> Slices:
    """A processed ``.npz``, or a data set as distributed, resampled as asked."""
    path = Path(a.data)
    if path.suffix == ".npz":
        return load_slices(path)
    halves = {"kind": "random", "train": 0.5, "val": 0.5, "seed": 0}
    spec: dict[str, Any] = {"format": a.format, "root": str(path), "provenance": "real", "crop": "image"}
    spec |= {"spacing_mm": a.spacing, "size": a.size, "split": halves}
    return prepare(path.name, {**spec, "case_pattern": a.case_pattern} if a.case_pattern else spec)


def part_of(slices: Slices, split: str, a: argparse.Namespace) -> Slices:
    """The slices of a split; ``all`` is every one."""
    part = slices if split == "all" else slices.split(split)
    if not len(part.image):
        raise InputError(f"{a.data}: no slices in split {split}; try --split all")
    return part


def show(table: pd.DataFrame, a: argparse.Namespace) -> None:
    """As JSON, or as text."""
    if a.json:
        print(json.dumps(records(table), indent=1))
        return
    with pd.option_context("display.width", 200, "display.max_columns", None, "display.max_colwidth", 60):
        print(table.to_string(index=False, float_format=lambda v: f"{v:.4g}"), file=sys.stdout)


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON-able dicts; NaN becomes null."""
    return list(json.loads(table.replace({np.nan: None}).to_json(orient="records")))
