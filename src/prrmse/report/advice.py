"""An advice of the command line as a page: the answer, the sources, what it rests on, and what to do next."""

from __future__ import annotations

import math
import shlex
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from prrmse.figures.outcome import LARGEST_DROP
from prrmse.files import write_text
from prrmse.names import PRETRAINED, SCRATCH
from prrmse.report.page import Map, inline, kind_rows, template
from prrmse.tables.ranking import SCORES
from prrmse.tables.verdict import is_untrained

# What columns are called on the page.
HEADINGS = {
    "reusable_pairs": "reusable pairs",
    "reusable_scalars": "parameters in them",
    "joint_change": "change of Dice, all at once",
    "joint_low": "from",
    "joint_high": "to",
    "n_cases": "patients",
    "rmse_relative": "relative RMSE of kernels",
    "missing": "pairs that do not fit",
    "dice": "Dice",
    "gain": "gain",
    "gain_low": "from",
    "gain_high": "to",
    "n_folds": "folds",
    "n_patients": "patients",
    **{name: title for name, (_, title) in SCORES.items() if name != "rmse_relative"},
}


FROM = {SCRATCH: "from scratch", PRETRAINED: "from the network's own pretrained weights"}


class Step(NamedTuple):
    """What to do next: why, and the command."""

    text: str
    command: str


def write_advice(
    path: str | Path,
    advice: Mapping[str, Any],
    options: Mapping[str, Any],
    draw: Callable[[Path], None] | None = None,
) -> None:
    """Write the page, which needs no other file.

    Args:
        path: of the page.
        advice: what ``prrmse advise --out`` writes, with or without a budget.
        options: of the command, by name.
        draw: with a budget, draws the learning curves as a file.
    """
    curves = ""
    if draw is not None:
        with tempfile.TemporaryDirectory() as folder:
            draw(Path(folder) / "curves.svg")
            curves = inline(Path(folder) / "curves.svg")
    write_text(_page(advice, options, curves), path)


def _page(advice: Mapping[str, Any], options: Mapping[str, Any], curves: str) -> str:
    ranking, verdicts = pd.DataFrame(advice["ranking"]), pd.DataFrame(advice["verdicts"])
    scores = [name for name in ranking if name in SCORES and name != "rmse_relative"]
    within_budget = "answer" in advice
    return template("advice.html.j2").render(
        within_budget=within_budget,
        found=advice["sentence"],
        ranking=_named(ranking.drop(columns=["round", *scores], errors="ignore")),
        scores=_named(ranking[["source", *scores]]) if scores else None,
        start=FROM[_start(advice)] if within_budget else "",
        curves=curves,
        maps=[] if within_budget else reuse_maps(verdicts),
        pairs=None if within_budget else _named(verdicts.drop(columns=["tensor", "effect"])),
        largest=LARGEST_DROP,
        spent=_spent(advice, ranking, verdicts, options),
        steps=next_steps(advice, options),
        sources=advice["sources"],
        options=options,
    )


def reuse_maps(verdicts: pd.DataFrame) -> list[Map]:
    """Drops of each source: a row for each kind and a column for each layer; what has no effect is left out."""
    found = []
    for source, rows in verdicts[verdicts["effect"]].groupby("source", sort=False):
        share = rows[~rows["final"]]["reusable"].mean()
        found.append(Map(f"{source}: {share:.0%} of pairs reusable", kind_rows(rows)))
    return found


def next_steps(advice: Mapping[str, Any], options: Mapping[str, Any]) -> list[Step]:
    """Commands that follow from an advice, to be copied."""
    seed = _given(options, "seed") if options["seed"] else []
    data = ["--data", options["data"]]
    if options["nnunet_plans"]:
        network = _given(options, "nnunet_plans", "configuration")
    else:
        network = ["--network", options["network"] or "NETWORK", *(["--trust"] if options["trust"] else [])]
        if options["arguments"] != "{}":
            network += ["--arguments", options["arguments"]]
    if Path(options["data"]).suffix != ".npz":
        by_plans = [] if options["nnunet_plans"] else ["format", "spacing", "size"]
        data += _given(options, *by_plans, "case_pattern")
    begun = [*network, *seed, *_given(options, "pretrained", "pretrained_part", "pretrained_match")]
    kept = options["out"] or "advice.json"
    again = "" if options["out"] else f" (this advice was not kept: add --out {kept})"
    warmstart = Step(
        f"Write the start that is advised{again}.",
        _line("warmstart", *begun, "--advice", kept, "--out", "warm.safetensors"),
    )
    how = _given(options, "steps", "batch", "learning_rate", "samples")
    how += ["--augment"] if options["augment"] else []
    training = [*data, *how, "--out", "final.safetensors"]
    fresh = _line("train", *begun, *training)
    if "answer" not in advice and is_untrained(advice["baseline"], advice["tolerance"]):
        return [Step("Train the target; then ask again.", fresh)]
    first = ["--freeze-steps", advice["freeze_steps"]] if advice.get("freeze_steps") else []
    frozen = ["--start", "warm.safetensors", "--freeze", "warm.json", *first]
    go_on = Step(
        "Train it on your patients; what the advice keeps fixed stays fixed.",
        _line("train", *network, *seed, *training, *frozen),
    )
    if "answer" not in advice:
        entries = [word for entry in advice["entries"] for word in ("--entry", entry)]
        sources = [*advice["sources"].values(), *entries]
        search = _line("advise", *sources, *begun, *data, "--budget", "10m", "--out", "best.json")
        return [
            Step("What fits need not gain. Ask by short trainings whether it does, and how to train on.", search),
            warmstart,
            go_on,
        ]
    if advice["answer"] == "transfer":
        return [warmstart, go_on]
    if _start(advice) == SCRATCH:
        fresh = _line("train", *network, *seed, *training)
    own = Step(f"Start {FROM[_start(advice)]}: no source is known to be better.", fresh)
    if advice["answer"] != "undecided":
        return [own]
    more = "More patients or steps may tell: a new search, with another --out."
    return [Step(f"{more} If the budget ended this one, a longer budget goes on from here.", ""), own]


def _given(options: Mapping[str, Any], *names: str) -> list[object]:
    """Options that have a value, as words of a command."""
    return [x for name in names if options[name] is not None for x in (f"--{name.replace('_', '-')}", options[name])]


def _start(advice: Mapping[str, Any]) -> str:
    """The start without a source that gains are over."""
    return str(advice["over"])


def _line(*words: object) -> str:
    return f"prrmse {shlex.join(str(word) for word in words)}"


def _named(table: pd.DataFrame) -> pd.DataFrame:
    return table.replace({None: math.nan}).round(3).rename(columns=HEADINGS)


def _spent(advice: Mapping[str, Any], ranking: pd.DataFrame, verdicts: pd.DataFrame, options: Mapping[str, Any]) -> str:
    """What the answer has cost, and what it rests on."""
    if "answer" not in advice:
        patients = int(ranking["n_cases"].max())
        few = float(verdicts.get("n_cases", pd.Series([patients])).mean())  # advice of earlier versions has none
        alone = f"on {few:.1f} of {patients} patients in the mean" if few < patients else f"on {patients} patients"
        return (
            f"Nothing was trained: {len(verdicts)} swaps of one pair each were measured {alone}, all reusable pairs of "
            f"each source at once on {patients}."
        )
    first = ranking.iloc[0]
    return (
        f"{advice['seconds']:.0f} s of training, of a budget of {options['budget']}: {len(ranking)} candidates on "
        f"{first['n_patients']} patients in {first['n_folds']} folds, the longest for {ranking['steps'].max()} steps."
    )
