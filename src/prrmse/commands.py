"""The commands of ``prrmse`` that look at networks and checkpoints: a thin face over `prrmse.api`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from prrmse import api
from prrmse.checkpoint import load_network
from prrmse.data.prepare import prepare
from prrmse.data.slices import Slices, load_slices
from prrmse.device import make_deterministic
from prrmse.errors import InputError
from prrmse.evaluate import Evaluation, output_of, prediction_of
from prrmse.foreign import fit, read_state
from prrmse.layers import Layer, inventory
from prrmse.nets import build_network


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
    evaluation = evaluation_for(network, a)
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
    evaluation = evaluation_for(network, a)
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
    """Write the target's state with the advised pairs of a source."""
    network = target_network(a)
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
    try:
        arguments = json.loads(a.arguments)
        if not isinstance(arguments, dict):
            raise ValueError("not an object")
    except ValueError as e:
        raise InputError(f'--arguments: not a JSON object such as {{"num_classes": 4}} ({e})') from None
    network = build_network(a.network, arguments)
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


def evaluation_for(network: nn.Module, a: argparse.Namespace) -> Evaluation:
    """The chosen slices, for a network with as many image channels and classes as it has."""
    slices = slices_of(a)
    first = next((x for x in network.state_dict().values() if x.ndim == 4), None)
    image_channels = int(first.shape[1]) if first is not None else 1
    make_deterministic(a.threads)
    image = torch.zeros(1, image_channels, *slices.image.shape[-2:])
    try:
        with torch.inference_mode():
            output = network.eval()(image)
            prediction_of(output)
    except Exception as e:
        raise InputError(f"{a.target}: the network does not take a slice {tuple(image.shape)}: {e}") from None
    channels = output_of(output).shape[1]
    if slices.label.max() >= channels:
        raise InputError(f"{a.data}: has {slices.label.max() + 1} classes with the background, the network {channels}")
    compute = {"device": a.device, "precision": a.precision, "evaluation_batch_size": a.batch}
    return Evaluation(slices, compute, channels, image_channels)


def slices_of(a: argparse.Namespace) -> Slices:
    """A processed ``.npz``, or a data set as distributed, resampled as asked."""
    path = Path(a.data)
    if path.suffix == ".npz":
        slices = load_slices(path)
    else:
        split = {"kind": "random", "train": 0.5, "val": 0.5, "seed": 0}
        spec: dict[str, Any] = {"format": a.format, "root": str(path), "provenance": "real", "crop": "image"}
        spec |= {"spacing_mm": a.spacing, "size": a.size, "split": split}
        if a.case_pattern:
            spec["case_pattern"] = a.case_pattern
        slices = prepare(path.name, spec)
    if a.split != "all":
        slices = slices.split(a.split)
    if not len(slices.image):
        raise InputError(f"{a.data}: no slices in split {a.split}; try --split all")
    return slices


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
