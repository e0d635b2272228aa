"""The commands of ``prrmse`` for networks and checkpoints: options in, calls of `prrmse.api`, text or JSON out."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

import numpy as np
import pandas as pd
import torch
from torch import nn

from prrmse import api
from prrmse.compare.first_order import HARMLESS
from prrmse.config.checks import checked
from prrmse.data import nnunet
from prrmse.data.prepare import check, raw_files, summary
from prrmse.data.prepare import prepare as prepared
from prrmse.data.reading import MAX_TEXT_BYTES, check_readable, read_bytes, unique_keys
from prrmse.data.slices import SPLITS, Slices, load_slices, save_slices
from prrmse.errors import InputError
from prrmse.experiments.halving import TRANSFER, default_of
from prrmse.files import write_text
from prrmse.handover.nnunet import write_nnunet
from prrmse.handover.nnunet_plans import read_plans, split_of_fold
from prrmse.handover.start import listed_tensors
from prrmse.learning.device import forward_only
from prrmse.learning.evaluate import Evaluation, measure, output_of
from prrmse.log import in_words
from prrmse.names import OWN_STARTS, USUAL_PLANS, Layer
from prrmse.nets.arrays import read_header
from prrmse.nets.build import build_network, seeded_network
from prrmse.nets.checkpoint import load_network
from prrmse.nets.foreign import checkpoint_file, file_of, fit, read_state, state_entries
from prrmse.nets.layers import inventory, outside_of_pairs
from prrmse.nets.pretrained import load_pretrained
from prrmse.outputs import check_outputs
from prrmse.settings import Compute, Dataset, Pretrained, Swap, Training, Verdict
from prrmse.tables.means import mean_over_patients
from prrmse.tables.store import write_table
from prrmse.tables.verdict import is_untrained

log = logging.getLogger(__name__)

# A sweep that may take so many seconds is announced.
LONG = 30
# Rows of a text, and columns that it may do without where a terminal is narrow.
ROWS = 20
NARROWER = ("tensor", "effect", "final", "scalars", "mean", "sd")
ADVICE = "an advice of prrmse advise --out"
FORMATS = get_args(Dataset.model_fields["format"].annotation)


def prepare(a: argparse.Namespace) -> None:
    """Read, check and resample a data set, write it as one file, print what is in it."""
    check_outputs({"processed": a.out}, (a.split_file, *data_files(a)))
    if Path(a.data).suffix == ".npz":
        raise InputError(f"{a.data}: is processed already; name the folder of a data set")
    if a.split_file and not Path(a.split_file).exists():
        raise InputError(f"<split_file>: {a.split_file}: no such file; write one with the columns patient, split")
    by_fold = a.split_file is not None and Path(a.split_file).suffix == ".json"
    if a.fold is not None and not by_fold:
        raise InputError("<fold>: is one of nnU-Net's splits_final.json; name that by <split_file>")
    if by_fold:
        slices = slices_of_fold(a)
    else:
        slices = slices_of(a, **({"split": {"kind": "file", "path": a.split_file}} if a.split_file else {}))
    save_slices(slices, a.out)
    patients = ", ".join(f"{n} {split}" for split in SPLITS if (n := len(slices.patients(split))))
    size = " x ".join(map(str, slices.label.shape[1:]))
    show(
        summary(slices).drop(columns=["dataset", "provenance"]),
        a,
        f"{a.out}: {len(slices.index)} slices of {size} pixels of {slices.meta['spacing_mm']:g} mm; "
        f"patients: {patients}",
    )


def slices_of_fold(a: argparse.Namespace) -> Slices:
    """The data set, split as a fold of nnU-Net's ``splits_final.json`` has it."""
    if a.fold is None:
        raise InputError(f"<fold>: say by which fold of {a.split_file} the network was trained, from 0")
    if a.format != "nnunet":
        raise InputError(f"<split_file>: {a.split_file}: is for <format> nnunet, not {a.format}; name a CSV")
    split = split_of_fold(Path(a.split_file), a.fold, nnunet.patients(Path(a.data), a.case_pattern))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "split.csv"
        pd.DataFrame(split.items(), columns=["patient", "split"]).to_csv(path, index=False)
        slices = slices_of(a, split={"kind": "file", "path": str(path)})
    slices.meta["split"] = {"kind": "file", "path": a.split_file, "fold": a.fold}
    return slices


def evaluate(a: argparse.Namespace) -> None:
    """Print Dice of a network for each structure and patient."""
    state = opened([a.target], a.entry)[a.target]
    network = target_network(a, state)
    slices = api.part_of(slices_of(a), a.split)
    evaluation = api.evaluation_for(network, slices, compute_of(a))
    api.check_output(network, evaluation)
    if a.network is None:
        tell_trained_on(a.target, slices)
    table = measure(network, evaluation, "seg")
    if a.json or a.csv:
        show(table, a, "")
        return
    structures = list(slices.classes.values())
    averaged = mean_over_patients(table, ["class"])
    means: dict[str, float] = dict(zip(averaged["class"], averaged["dice"], strict=True))
    if "mean" not in means:
        raise InputError(f"{a.data}: no patient has a structure, be it true or predicted, so there is no Dice")
    by_structure = ", ".join(f"{name} {means[name]:.3f}" for name in structures if name in means)
    wide = table.pivot(index="patient", columns="class", values="dice").reset_index()
    columns = [
        "patient",
        *(c for c in (*structures, "mean") if c in wide),
        *(["mean_with_background"] if a.all else []),
    ]
    show(
        wide[columns].sort_values("mean", kind="stable"),
        a,
        f"Dice {means['mean']:.3f}, mean over structures and {len(wide)} patients ({by_structure}); below, "
        "the worst patient first",
    )


def tell_trained_on(path: str, slices: Slices) -> None:
    """Warn where a checkpoint of `train` is measured on patients that it has seen."""
    header = read_header(path)
    data, seen = header.get("data"), header.get("trained_on")
    if not isinstance(data, dict) or not isinstance(seen, list) or data.get("dataset") != slices.meta["dataset"]:
        return
    if known := set(slices.patients()).intersection(map(str, seen)):
        log.warning(
            "%s was trained on %d of these %d patients; on others its Dice may be lower",
            *(path, len(known), len(slices.patients())),
        )


def inspect(a: argparse.Namespace) -> None:
    """Print the pairs of a checkpoint, and how much of it has no kind."""
    table = api.inspect(opened([a.checkpoint], a.entry)[a.checkpoint])
    kinds = ", ".join(f"{n} {kind}" for kind, n in table["kind"].value_counts(sort=False).items())
    kinds = f" ({kinds})" if kinds else ""
    show(table, a, f"{len(table)} pairs of kind and layer{kinds}, {table['scalars'].sum():,} scalars")
    without = table.attrs["without_kind"]
    if without and not (a.json or a.csv):
        named = ", ".join(list(without)[:4]) + (", ..." if len(without) > 4 else "")
        print(f"\n{sum(without.values())} scalars in {len(without)} tensors have no kind, so are in no pair: {named}")


def compare(a: argparse.Namespace) -> None:
    """Print the distances of two checkpoints, what does not fit, and draw."""
    check_outputs({"figure": a.figure}, (a.a, a.b))
    states = opened([a.a, a.b], a.entry)
    distances, fits = api.compare(states[a.a], states[a.b])
    odd = fits[fits["status"] != "same"]
    if distances.empty:
        raise InputError(f"{a.b}: nothing in it fits {a.a}; are both of one network?")
    tell_without_kind(distances.attrs["without_kind"], "no distance is of them")
    if a.figure:
        from prrmse.figures.tool import distances_by_layer

        distances_by_layer(distances, a.figure)
    if a.json:
        print(json.dumps({"distances": records(distances), "does_not_fit": records(odd)}, indent=1))
        return
    kernels = distances[distances["kind"] == "W"]
    far = (kernels if len(kernels) else distances).nlargest(1, "rmse_relative").iloc[0]
    median = distances["rmse_relative"].median()
    show(
        distances,
        a,
        f"{len(distances)} pairs; relative RMSE (0 equal, 1 uncorrelated): median {median:.3g}, largest of a kernel "
        f"{far['rmse_relative']:.3g} ({far['kind']}{far['layer']}, {far['module']})",
        first="rmse_relative",
    )
    if len(odd) and not a.csv:
        print()
        show(odd, a, f"{len(odd)} tensors are not the same in both:")


def sweep(a: argparse.Namespace) -> None:
    """Print the change of Dice when each pair is taken from the source."""
    check_outputs({"table": a.table, "figure": a.figure}, (a.target, a.source, *data_files(a)))
    tolerance, memory_mb = checked(Verdict, tolerance=a.tolerance).tolerance, memory_of(a)
    until = until_decided(a)
    states = opened([a.target, a.source], a.entry)
    network, evaluation = target_on_data(a, states[a.target])
    source = fitting(network, a.source, states[a.source], a.target)
    tell_without_kind(outside_of_pairs(network), "they stay the target's own")
    tell_duration(network, evaluation, sum(layer.tensor in source for layer in inventory(network)))
    how = {"engine": a.engine, "memory_mb": memory_mb, "tolerance": tolerance}
    table = api.sweep(network, source, evaluation, **how, **until)
    # Paired: a patient who has a structure only after the swap, falsely, has no drop.
    paired = table.dropna(subset=["baseline"]).assign(drop=table["baseline"] - table["score"])
    means = paired.groupby(api.PAIR, sort=False)[["baseline", "score", "drop"]].mean().reset_index()
    means["n_patients"] = means["tensor"].map(table.attrs["measured"])
    if a.table:
        write_table(table, a.table)
    if a.figure:
        from prrmse.figures.tool import drops_by_layer

        drops_by_layer(means, tolerance, a.figure)
    means["reusable"] = means["drop"] <= tolerance
    worst, own = means.nlargest(1, "drop").iloc[0], float(np.mean(list(table.attrs["baseline"].values())))
    if is_untrained(own, tolerance):
        log.warning(untrained(own, tolerance))
    show(
        means,
        a,
        f"{means['reusable'].sum()} of {len(means)} pairs can each be taken alone with a mean drop of at most "
        f"{tolerance:g} from {own:.3f}; the largest is {worst['drop']:.3f} "
        f"({worst['kind']}{worst['layer']}, {worst['module']})"
        + (f"; {stopped(means['n_patients'], len(evaluation.patients), a)}" if until else ""),
        first="drop",
    )


def until_decided(a: argparse.Namespace) -> dict[str, Any]:
    """How a sweep stops early, as arguments of `prrmse.api`.

    Raises:
        InputError: ``--stopping`` without ``--until-decided``; or as `prrmse.api.check_until_decided`.
    """
    if a.until_decided is None:
        if "stopping" in a.given:
            raise InputError("<stopping>: says how <until_decided> decides; name its rate, e.g. 0.05, too")
        return {}
    api.check_until_decided(a.until_decided, a.stopping, getattr(a, "rule", "mean"))
    return {"until_decided": a.until_decided, "stopping": a.stopping}


def stopped(measured: pd.Series[int], patients: int, a: argparse.Namespace) -> str:
    """Of a sweep that stops early, on how many patients pairs were measured, and by which rule."""
    rule = {
        "guaranteed": f"so that at a rate of at most {a.until_decided:.3g} a verdict is not that on all of them",
        "normal": f"by t tests at {a.until_decided:.3g}, which miss what fails on few patients only",
    }[a.stopping]
    return f"measured on {measured.mean():.1f} of {patients} patients in the mean, {rule}"


def screen(a: argparse.Namespace) -> None:
    """Print how far each swap could move the target's loss, to first order, the least first."""
    check_outputs({"table": a.table}, (a.target, *a.sources, *data_files(a)))
    paths = short_names(a.sources)
    states = opened([a.target, *a.sources], a.entry)
    network, evaluation = target_on_data(a, states[a.target])
    sources = that_fit(network, {name: states[path] for name, path in paths.items()}, a.target)
    tell_without_kind(outside_of_pairs(network), "they stay the target's own")
    begun = time.perf_counter()
    table = api.screen(network, sources, evaluation)
    seconds = time.perf_counter() - begun
    if a.table:
        write_table(table, a.table)
    ordered = table.sort_values("first_order", kind="stable", ignore_index=True)
    body = ordered[~ordered["final"]]
    most = body.sort_values("first_order", kind="stable", na_position="first").iloc[-1]
    show(
        ordered,
        a,
        f"{len(table)} swaps by one backward pass ({seconds:.1f} s), the least harmful first; the most: {most['kind']}"
        f"{most['layer']} ({most['module']}) of {most['source']}. {(body['first_order'] < HARMLESS).sum()} are below "
        f"{HARMLESS:g}, where none was harmful so far (docs/screen.md). This is an order; prrmse sweep measures drops",
    )


def untrained(dice: float, tolerance: float) -> str:
    """What to tell of a target for which `is_untrained` holds."""
    return (
        f"The target's own Dice is {dice:.3f}, at most twice the tolerance of {tolerance:g}: nearly every pair counts "
        "as reusable, which says nothing. Train the target first, or lower the tolerance."
    )


# Options of `advise` that only a search reads, and those that only a sweep of a target reads.
OF_SEARCH = {"plans", "verdicts", "figure", "samples", "augment", "steps", "learning_rate", "folds", "rounds"}
OF_SEARCH |= {"pretrained", "pretrained_part", "pretrained_match"}
OF_TARGET = {"tolerance", "rule", "engine", "memory_mb", "partial", "until_decided", "stopping"}


def advise(a: argparse.Namespace) -> None:
    """Rank sources for a target, or find the best start within a budget; write the advice."""
    if a.budget is not None:
        advise_within_budget(a)
        return
    refuse_unread(a, OF_SEARCH, "without")
    if not a.sources:
        raise InputError("advise: name the target and at least one source; or --budget, and sources only")
    check_outputs({"advice_out": a.out, "page": a.page}, (a.target, *a.sources, *data_files(a)))
    if a.page:
        from prrmse.report.advice import write_advice  # what is not installed is missed before anything takes minutes
    settings, memory_mb = checked(Verdict, tolerance=a.tolerance, rule=a.rule), memory_of(a)
    until = until_decided(a)
    paths = short_names(a.sources)
    states = opened([a.target, *a.sources], a.entry)
    network, evaluation = target_on_data(a, states[a.target])
    # All are opened before any of them takes minutes.
    sources = that_fit(network, {name: states[path] for name, path in paths.items()}, a.target)
    outside = outside_of_pairs(network)
    tell_without_kind(outside, "they stay the target's own")
    tell_duration(network, evaluation, len(inventory(network)) * len(sources))
    advice = api.advise(
        network,
        sources,
        evaluation,
        settings=settings,
        engine=a.engine,
        memory_mb=memory_mb,
        **until,
    )
    if is_untrained(advice.baseline, a.tolerance):
        sentence = untrained(advice.baseline, a.tolerance)
    else:
        sentence = best_fit(advice.ranking, a.tolerance, "parameters in pairs" if outside else "parameters")
    if until:
        sentence += f" Pairs were {stopped(advice.verdicts['n_cases'], len(evaluation.patients), a)}."
    found = {
        "target": str(a.target),
        "sentence": sentence,
        "baseline": advice.baseline,
        "tolerance": a.tolerance,
        "rule": a.rule,
        "until_decided": a.until_decided,
        "stopping": a.stopping if until else None,
        "sources": {name: str(path) for name, path in paths.items() if name in sources},
        "entries": a.entry,
        "ranking": records(advice.ranking),
        "verdicts": records(advice.verdicts),
    }
    text = json.dumps(found, indent=1) + "\n"
    if a.out:
        write_text(text, a.out)
    if a.page:
        write_advice(a.page, found, vars(a))
    if a.json:
        print(text, end="")
        return
    show(advice.ranking, a, sentence)


def best_fit(ranking: pd.DataFrame, tolerance: float, counted: str) -> str:
    """What `prrmse.api.advise` found of its first source, and that it is not what training on gains.

    Args:
        ranking: of an `prrmse.api.Advice`.
        tolerance: the largest drop.
        counted: what its shares are of.
    """
    best = ranking.iloc[0]
    found = (
        f"Best fit: {best['source']}. {best['reusable_scalars']:.0%} of its {counted} can be taken with a mean drop "
        f"of at most {tolerance:g} Dice each; all of them at once change Dice by {best['joint_change']:+.3f} "
        f"({best['joint_low']:+.3f} to {best['joint_high']:+.3f}, {best['n_cases']:.0f} patients) without any training."
        " This is fit under a swap, not what training on gains, which --budget measures."
    )
    known = ranking[["source", "logme"]].dropna()  # NaN: features that are not finite
    first = known.nlargest(1, "logme")["source"].to_list()
    if first and first[0] != best["source"]:
        found += (
            f" By LogME, which looks at features and not at weights, {first[0]} comes first; neither is safe "
            "(docs/study.md)."
        )
    return found


def refuse_unread(a: argparse.Namespace, names: set[str], how: str) -> None:
    """Refuse options of these names, which nothing reads with (or without) ``--budget``."""
    if unread := sorted(names & a.given):
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in unread)
        raise InputError(f"advise: {how} --budget nothing reads {flags}")


def advise_within_budget(a: argparse.Namespace) -> None:
    """Train from every source by every plan, and from scratch, while the budget lasts; write the advice."""
    from prrmse.search import check_search, search, sentence

    if a.figure or a.page:  # what is not installed is missed before anything takes minutes
        from prrmse.figures.tool import learning_curves
        from prrmse.report.advice import write_advice

    refuse_unread(a, OF_TARGET, "with")
    if "split" in a.given and a.split not in ("train", "all"):
        raise InputError(f"<split> {a.split}: a search is on the training patients, or, with <split> all, on all")
    files = [a.target, *a.sources]
    outputs = {"advice_out": a.out, "figure": a.figure, "page": a.page}
    check_outputs(outputs, (*files, a.verdicts, a.pretrained, a.pretrained_match, *data_files(a)))
    if a.network is None:
        raise InputError("advise: with --budget, name the network that is to be trained: --network")
    budget, settings, compute = seconds_of(a.budget), training_of(a), compute_of(a)
    names, states = short_names(files), opened(files, a.entry, beside=[a.pretrained])
    plans, everyone = a.plans or USUAL_PLANS, a.split == "all"
    check_search(names, plans, a.folds, a.rounds, a.samples, everyone=everyone)
    made = new_network(a)
    sources = that_fit(made, {name: states[path] for name, path in names.items()}, a.network)
    lists = verdicts_of(a.verdicts, {name: names[name] for name in sources}) if a.verdicts else None
    found = search(
        a.network,
        slices_of(a),
        sources,
        budget,
        arguments=parse_arguments(a.arguments),
        plans=plans,
        pretrained=made.state_dict() if a.pretrained else None,
        lists=lists,
        folds=a.folds,
        rounds=a.rounds,
        samples=a.samples,
        everyone=everyone,
        settings=settings,
        compute=compute,
        seed=a.seed,
        folder=Path(a.out).with_suffix(".trainings") if a.out else None,
        trust=a.trust,
    )
    advice = {
        "answer": found.answer,
        "best": found.best._asdict(),
        "over": default_of(found.ranking),
        "sentence": sentence(found),
        "seconds": round(found.seconds, 1),
        "sources": {name: path for name, path in names.items() if name in sources},
        "entries": a.entry,
        "ranking": records(found.ranking),
        "verdicts": [
            {"source": found.best.source, **layer._asdict(), "reusable": True, "effect": True}
            for layer in found.start.reused
        ],
        "freeze": [layer.tensor for layer in found.start.frozen],
        "freeze_steps": found.first if found.start.first else None,
    }
    text = json.dumps(advice, indent=1) + "\n"
    if a.out:
        write_text(text, a.out)
    if a.figure:
        learning_curves(found.curves, OWN_STARTS, a.figure)
    if a.page:
        write_advice(a.page, advice, vars(a), lambda path: learning_curves(found.curves, OWN_STARTS, path))
    if a.json:
        print(text, end="")
        return
    show(found.ranking, a, f"{sentence(found)}\n{found.seconds:.0f} s of training were spent.")
    if found.answer == TRANSFER and a.out and not a.csv:
        print("prrmse warmstart --advice writes this start, and prrmse train goes on from there (docs/advise.md).")


def verdicts_of(path: str, sources: Mapping[str, str]) -> dict[str, list[str]]:
    """The tensors that an advice calls reusable, by source; a warning for each source of which it calls none so.

    Args:
        path: of an advice that was made for a target.
        sources: files of the sources by name.
    """
    advice = read_json(path, ADVICE)
    try:
        named = {Path(file).resolve(): str(name) for name, file in advice["sources"].items()}
        reusable = [v for v in advice["verdicts"] if v["reusable"] and v["effect"]]
        told = {own: named.get(Path(file).resolve()) for own, file in sources.items()}
        lists = {own: [str(v["tensor"]) for v in reusable if v["source"] == name] for own, name in told.items()}
    except (KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{path}: not {ADVICE} ({e})") from None
    if "best" in advice or not any(lists.values()):
        raise InputError(
            f"<verdicts>: {path}: says of none of these sources what is reusable; make it without --budget"
        )
    for own in (own for own, tensors in lists.items() if not tensors):
        log.warning("%s: %s calls no pair of it reusable, so it is not tried with a list", own, path)
    return {own: tensors for own, tensors in lists.items() if tensors}


def new_network(a: argparse.Namespace) -> nn.Module:
    """The network that is named, initialised anew, with the pretrained weights that are named."""
    network = seeded_network(a.network, parse_arguments(a.arguments), a.network, "init", "", a.seed, trust=a.trust)
    weights = weights_of(a)
    if weights is not None:
        load_pretrained(a.network, network, weights)
    return network


def weights_of(a: argparse.Namespace) -> Pretrained | None:
    """``--pretrained``."""
    if a.pretrained is None:
        if a.pretrained_part or a.pretrained_match:
            raise InputError("--pretrained-part and --pretrained-match are for --pretrained, which is not given")
        return None
    how = {"part": a.pretrained_part or "", "match": a.pretrained_match or "name"}
    named = a.entry if a.pretrained != "imagenet" else []  # that one is no file
    entry = entries_of([a.pretrained], named, strict=False)[a.pretrained]
    return checked(Pretrained, file=a.pretrained, entry=entry, **how)


def seconds_of(budget: str) -> float:
    """``90``, ``90s``, ``10m`` or ``2h`` in seconds."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", budget)
    if match is None or not float(match[1]):
        raise InputError(f"--budget: {budget}: not a time; write 90s, 10m or 2h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def warmstart(a: argparse.Namespace) -> None:
    """Write the target's state, or that of a new network, with the advised pairs of a source."""
    inputs = (a.target, a.source, a.advice, a.pretrained, a.pretrained_match)
    check_outputs({"out": a.out, "nnunet": a.nnunet}, inputs)
    own_files = [path for path in (a.target, None if a.advice else a.source) if path]
    states = opened(own_files, a.entry, strict=not a.advice, beside=[a.pretrained])
    if a.target:
        network = target_network(a, states[a.target])
    elif a.network:
        network = new_network(a)
    else:
        raise InputError("warmstart: name a checkpoint to start from, or --network to initialise a new one")
    layers = api.reaching_pairs(network)
    known = {f"{layer.kind}{layer.layer}" for layer in inventory(network)}
    excluded = set(a.exclude.split(",")) if a.exclude else set()
    if unknown := excluded - known:
        raise InputError(f"warmstart: --exclude {', '.join(sorted(unknown))}: no such pair; see prrmse inspect")
    if a.advice:
        chosen, source, entries, kept, steps = advised(a.advice, a.source, layers)
        if steps is not None and a.nnunet:
            raise InputError(
                f"--nnunet: {a.advice} freezes for the first {steps} steps only, which a trainer of nnU-Net cannot; "
                "search without the plan probe"
            )
        check_outputs({"out": a.out, "nnunet": a.nnunet}, (source,))
        told = a.entry or entries
        state = opened([source], told, strict=bool(a.entry), beside=[a.target, a.pretrained])[source]
    elif a.source:
        source, state = a.source, states[a.source]
        fitted = fitting(network, source, state, a.network or a.target)
        chosen, kept, steps = [layer for layer in layers if layer.tensor in fitted], None, None
    else:
        raise InputError("warmstart: name --source and what to take, or --advice")
    chosen = [x for x in chosen if (a.reuse_final or not x.final) and f"{x.kind}{x.layer}" not in excluded]
    what = a.network or a.target
    fitted, _ = fit(network.state_dict(), api.state_of(state))
    if odd := [x.tensor for x in chosen if x.tensor not in fitted]:
        raise InputError(
            f"{source}: its {odd[0]} does not fit {what}, though {a.advice} says to take it; name the network that the "
            "advice is for, with its --arguments"
        )
    if not chosen:
        raise InputError(f"{source}: no pair is left to take into {what}; see prrmse compare, or take --reuse-final")
    frozen = None if kept is None else [layer for layer in chosen if layer.tensor in kept]
    tell_without_kind(outside_of_pairs(network), "the start has the network's own")
    found = api.warmstart(network, state, chosen, a.out, frozen=frozen, note=f"{len(chosen)} pairs from {source}")
    if a.nnunet:
        write_nnunet(a.out, found["frozen"], a.nnunet)
    if a.json:
        print(json.dumps(found, indent=1))
    else:
        only = "" if steps is None else f", for the first {steps} steps only (prrmse train --freeze-steps {steps})"
        listed = Path(a.out).with_suffix(".json")
        print(f"{a.out}: {len(chosen)} pairs from {source}; what to freeze is in {listed}{only}")


def train(a: argparse.Namespace) -> None:
    """Train a network on the training patients, write it, print Dice on the others."""
    check_outputs({"out": a.out}, (a.start, a.freeze, a.pretrained, a.pretrained_match, *data_files(a)))
    options: dict[str, Any] = {
        "arguments": parse_arguments(a.arguments),
        "pretrained": weights_of(a),
        "start": a.start,
        "entry": entries_of([a.start], a.entry, beside=[a.pretrained])[a.start] if a.start else None,
        "freeze": listed_tensors(a.freeze) if a.freeze else (),
        "settings": training_of(a),
        "compute": compute_of(a),
    }
    trained = api.train(
        a.network,
        slices_of(a),  # last of what may be refused: it can take minutes
        a.out,
        **options,
        freeze_steps=a.freeze_steps,
        frozen_statistics=a.frozen_statistics,
        samples=a.samples,
        split=a.split,
        seed=a.seed,
        trust=a.trust,
    )
    table = mean_over_patients(trained.dice, ["class"])
    mean = table[table["class"] == "mean"].iloc[0]
    show(
        table.assign(n_train=len(trained.patients)),
        a,
        f"Dice {mean['dice']:.3f}, mean over structures and {mean['n_patients']:.0f} patients, after training on "
        f"{len(trained.patients)}",
    )


class Advised(NamedTuple):
    """What an advice says of a source: the pairs to reuse, its file, the entries named for it, what to freeze.

    ``frozen`` is None where the advice leaves open what to freeze; ``steps``: for so many steps only, if not None.
    """

    layers: list[Layer]
    file: str
    entries: list[str]
    frozen: set[str] | None
    steps: int | None


def advised(path: str, source: str | None, layers: list[Layer]) -> Advised:
    """What an advice says of a source, or of its best one."""
    advice = read_json(path, ADVICE)
    try:
        best = advice["best"]["source"] if "best" in advice else advice["ranking"][0]["source"]
        name = source or best
        if "best" in advice and best in OWN_STARTS:
            raise InputError(f"{path}: advises to start from {best} ({advice['answer']}); no pair is to be reused")
        if "best" in advice and name != best:
            raise InputError(f"{path}: says what to reuse of {best} only; leave --source {name} out")
        frozen = {str(tensor) for tensor in advice["freeze"]} if "freeze" in advice else None
        reusable = [v for v in advice["verdicts"] if v["source"] == name and v["reusable"] and v["effect"]]
        taken = {v["tensor"]: bool(v["final"]) for v in reusable}
        file, entries = str(advice["sources"][name]), [str(entry) for entry in advice["entries"]]
        steps = advice.get("freeze_steps")
    except (KeyError, TypeError, IndexError, AttributeError) as e:
        raise InputError(f"{path}: not {ADVICE}, or has no such source ({e})") from None
    try:
        checkpoint_file(file)
    except InputError as e:
        raise InputError(f"{path}: its source {name}, {e}") from None
    # Which convolution is final was found on the data.
    chosen = [layer._replace(final=taken[layer.tensor]) for layer in layers if layer.tensor in taken]
    return Advised(chosen, file, entries, frozen, steps)


def read_json(path: str, what: str) -> Any:
    """A JSON file.

    Raises:
        InputError: it cannot be read, or is no JSON.
    """
    content = read_bytes(Path(path), f"name {what}", MAX_TEXT_BYTES)
    try:
        return json.loads(content.decode("utf-8-sig"), object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path}: cannot be read as {what} ({e})") from None


def short_names(paths: list[str]) -> dict[str, str]:
    """Paths by what tells them apart: no common folder, no ending."""
    if len(set(paths)) < len(paths):
        raise InputError(f"a source is named twice: {', '.join(paths)}")
    try:
        common = os.path.commonpath([Path(path).absolute().parent for path in paths])
        names = {str(Path(os.path.relpath(path, common)).with_suffix("")): path for path in paths}
    except ValueError:  # on two drives; a path without a name, as that of all files
        return {path: path for path in paths}
    return names if len(names) == len(paths) else {path: path for path in paths}


def opened(
    paths: Sequence[str], entries: Sequence[str], *, strict: bool = True, beside: Sequence[str | None] = ()
) -> dict[str, api.StateLike]:
    """Each checkpoint by its path: the state that ``--entry`` names where the file holds several, else the path.

    Raises:
        InputError: a file of several states has none of the entries; or as `entries_of`.
    """
    chosen = entries_of(paths, entries, strict=strict, beside=beside)
    return {path: path if entry is None else read_state(path, entry) for path, entry in chosen.items()}


def entries_of(
    paths: Sequence[str], entries: Sequence[str], *, strict: bool = True, beside: Sequence[str | None] = ()
) -> dict[str, str | None]:
    """Which of the entries each file has, by its path: the first of them; None where the file holds only one state.

    Args:
        paths: of the files.
        entries: of ``--entry``.
        strict: whether they must be of use.
        beside: other files of the command, for which they may be meant.

    Raises:
        InputError: ``strict``, and no file holds several states.
    """
    every = [*paths, *(path for path in beside if path not in (None, "imagenet"))]
    found: dict[str | None, str | None] = dict.fromkeys(every)
    for path in found if entries else ():
        there = state_entries(str(path))
        if len(there) > 1:
            known = [e for e in entries if any(e in (name, name.rpartition(".")[2]) for name in there)]
            found[path] = (known or entries)[0]
    if strict and entries and not any(found.values()):
        raise InputError(f"<entry> {entries[0]}: there is no choice in {', '.join(paths)}; leave <entry> out")
    return {path: found[path] for path in paths}


def fitting(network: nn.Module, path: str, state: api.StateLike, target: str) -> dict[str, torch.Tensor]:
    """What of a checkpoint fits the network; at least something."""
    fitted, _ = fit(network.state_dict(), api.state_of(state))
    if not fitted:
        raise InputError(f"{path}: nothing in it fits {target}; see prrmse compare")
    return fitted


def that_fit(network: nn.Module, sources: Mapping[str, api.StateLike], target: str) -> dict[str, api.StateLike]:
    """The sources of which a pair fits the network, beside its final convolution; a warning for each other one.

    Raises:
        InputError: none does; or one cannot be read.
    """
    body = [layer.tensor for layer in api.reaching_pairs(network) if not layer.final]
    found: dict[str, api.StateLike] = {}
    for name, source in sources.items():
        state = api.state_of(source)
        if fit(network.state_dict(), state)[0].keys() & set(body):
            found[name] = state
        else:
            log.warning("%s: nothing in it fits %s, so it is left out; see prrmse compare", name, target)
    if not found:
        raise InputError(f"{', '.join(sources)}: nothing in them fits {target}; see prrmse compare")
    return found


def tell_without_kind(scalars: Mapping[str, int], meaning: str) -> None:
    """Warn of parameters that are in no pair, if there are any.

    Args:
        scalars: of each, by name.
        meaning: what that means here.
    """
    if scalars:
        log.warning(
            "%d scalars in %d tensors have no kind, so are in no pair (%s%s): %s",
            *(sum(scalars.values()), len(scalars), next(iter(scalars)), ", ..." if len(scalars) > 1 else "", meaning),
        )


def target_on_data(a: argparse.Namespace, state: api.StateLike) -> tuple[nn.Module, Evaluation]:
    """The target, and the slices that it is measured on."""
    network = target_network(a, state)
    evaluation = api.evaluation_for(network, api.part_of(slices_of(a), a.split), compute_of(a))
    api.check_output(network, evaluation)
    return network, evaluation


def tell_duration(network: nn.Module, evaluation: Evaluation, swaps: int) -> None:
    """Say what a sweep may take, if that is long: as if the whole network was run for each swap."""
    placed, image = evaluation.placed_copy(network), evaluation.batches[0].image
    with torch.inference_mode(), forward_only(evaluation.device, evaluation.dtype):
        for _ in range(2):  # the first run is slower than those that follow
            begun = time.perf_counter()
            output_of(placed(image)).sum().item()  # which waits for the device
            seconds = time.perf_counter() - begun
    seconds *= swaps * len(evaluation.whole.image) / len(image)
    if seconds > LONG:
        log.info("%d swaps on %d slices: up to %s", swaps, len(evaluation.whole.image), in_words(seconds))


def target_network(a: argparse.Namespace, state: api.StateLike) -> nn.Module:
    """The target: a checkpoint of ours rebuilds itself; for any other the network is named."""
    target, name = a.target, a.network
    check_readable(file_of(target), "name a checkpoint")
    if name is None:
        if Path(target).suffix != ".safetensors":
            raise InputError(f"{target}: not a checkpoint of this program; name its network with --network")
        try:
            return load_network(target)[0]
        except InputError as e:
            raise InputError(f"{e}; if it is of another program, name its network with --network") from None
    network = build_network(name, parse_arguments(a.arguments), trust=a.trust)
    fitted, table = fit(network.state_dict(), api.state_of(state))
    odd = table[~table["status"].isin(["same", "surplus"]) & ~table["tensor"].str.endswith("num_batches_tracked")]
    if len(odd) and not a.partial:
        raise InputError(
            f"{target}: does not fit {name}: {len(odd)} of {len(table)} tensors, first {odd.iloc[0]['tensor']} "
            f"({odd.iloc[0]['status']}: {odd.iloc[0]['shape']}, not {odd.iloc[0]['shape_other'] or 'there'}); correct "
            "--arguments, or go on without them with --partial"
        )
    network.load_state_dict({**network.state_dict(), **fitted})
    return network.eval()


def take_plans(a: argparse.Namespace) -> None:
    """Put what ``--nnunet-plans`` says, or a default, where the command line leaves it open.

    Raises:
        InputError: it is also said by another option; or it is open, and there are no plans.
    """
    a.planned = None
    if getattr(a, "nnunet_plans", None):
        of_plans = {"network": None, "arguments": "{}", "format": "nnunet"}
        of_plans |= {
            "spacing": Dataset.model_fields["spacing_mm"].default,
            "size": Dataset.model_fields["size"].default,
        }
        for name, default in of_plans.items():
            if getattr(a, name, default) != default:
                raise InputError(f"--{name}: follows from --nnunet-plans; leave one of the two out")
        # Where --trust is no option, no network is built.
        a.planned = read_plans(a.nnunet_plans, a.configuration, trust=getattr(a, "trust", True))
        a.network, a.arguments, a.trust = a.planned.network, json.dumps(a.planned.arguments), True
    elif getattr(a, "configuration", None):
        raise InputError("<configuration>: is one of <nnunet_plans>; name their folder")
    if a.command == "train" and a.network is None:
        raise InputError("train: name the network that is to be trained: --network, or the plans: <nnunet_plans>")
    if "data" in a and a.data is None:
        if a.planned is None:
            raise InputError(f"{a.command}: <root>: name a file of prrmse prepare, or the folder of a data set")
        a.data = str(a.planned.raw)
    if "batch" in a and a.batch is None:
        a.batch = a.planned.batch_size if a.planned else Training.model_fields["batch_size"].default


def parse_arguments(text: str) -> dict[str, Any]:
    """``--arguments``."""
    try:
        arguments = json.loads(text)
        if not isinstance(arguments, dict):
            raise ValueError("not an object")
    except (ValueError, RecursionError) as e:
        raise InputError(f'--arguments: not a JSON object such as {{"num_classes": 4}} ({e})') from None
    return arguments


def training_of(a: argparse.Namespace) -> Training:
    """The options of a training."""
    return checked(Training, steps=a.steps, batch_size=a.batch, learning_rate=a.learning_rate, augment=a.augment)


def compute_of(a: argparse.Namespace) -> Compute:
    """The options of the device."""
    return checked(
        Compute,
        device=a.device,
        precision=a.precision,
        evaluation_precision=a.precision,
        threads=a.threads,
        evaluation_batch_size=a.batch,
    )


def memory_of(a: argparse.Namespace) -> float:
    """``--memory-mb``."""
    return checked(Swap, memory_mb=a.memory_mb, sources={"target": ("source",)}).memory_mb


def data_files(a: argparse.Namespace) -> list[str]:
    """The files that ``--data`` stands for."""
    return raw_files(a.format, a.data) if Path(a.data).is_dir() and a.format in FORMATS else [a.data]


def slices_of(a: argparse.Namespace, **settings: Any) -> Slices:
    """A processed ``.npz``, or a data set as distributed, resampled as asked.

    Args:
        a: of the command line.
        settings: of the data set, beside those that every command has.

    Raises:
        InputError: as `prepared` and `load_slices`; or a processed set has not the spacing or size that is asked for.
    """
    path = Path(a.data)
    spec = checked(
        Dataset,
        **{"format": a.format, "root": str(path), "spacing_mm": a.spacing, "size": a.size},
        **{"case_pattern": a.case_pattern or None, **settings},
    )
    if not path.exists():
        raise InputError(f"<root>: {a.data} does not exist; name the folder of a data set or a file of prrmse prepare")
    if path.suffix != ".npz":
        if a.planned is not None:
            own: Slices = a.planned.slices(spec)
            return own
        name = path.resolve().name
        check(name, spec)
        return prepared(name, spec)
    slices = load_slices(path)
    if a.planned is not None and slices.meta.get("plans", {}).get("sha256") != a.planned.digest:
        raise InputError(
            f"{path}: was not prepared by these plans; prepare it anew with <nnunet_plans>, or name the folder"
        )
    for name, found in (("spacing_mm", slices.meta["spacing_mm"]), ("size", slices.image.shape[-1])):
        if getattr(spec, name) not in (found, Dataset.model_fields[name].default):
            raise InputError(
                f"<{name}>: {path} was processed with {found}; leave that out, or name the data set's folder"
            )
    return slices


def show(table: pd.DataFrame, a: argparse.Namespace, text: str, first: str = "") -> None:
    """As JSON or CSV, or what is to be known of it and then rows that fit the terminal.

    Args:
        table: the rows.
        a: json, csv, all.
        text: what is to be known of it, in one line.
        first: of a text that has not all rows, the column whose largest values come first.
    """
    if a.json:
        print(json.dumps(records(table), indent=1))
        return
    if a.csv:
        print(table.to_csv(index=False), end="")
        return
    if table.empty:
        print(f"{text}.")
        return
    print(f"{text}\n")
    shown = table
    if len(table) > ROWS and not a.all:
        shown = (table.sort_values(first, ascending=False, kind="stable") if first else table).head(ROWS)
    printed = _as_text(shown)
    for column in NARROWER if not a.all else ():
        if len(printed.partition("\n")[0]) > shutil.get_terminal_size((120, 24)).columns:
            shown = shown.drop(columns=column, errors="ignore")
            printed = _as_text(shown)
    print(printed)
    if len(shown) < len(table):
        order = f", by {first}" if first else ""
        print(f"\n{len(shown)} of {len(table)} rows{order}; --all prints all, --csv and --json for other programs")


def _as_text(table: pd.DataFrame) -> str:
    with pd.option_context("display.width", None, "display.max_columns", None, "display.max_colwidth", 60):
        return table.to_string(index=False, float_format=lambda v: f"{v:.4g}")


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON-able dicts; NaN becomes null."""
    return list(json.loads(table.replace({np.nan: None}).to_json(orient="records")))
