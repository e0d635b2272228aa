"""What the screen and early stopping save and miss, on the sweeps of finished runs: the tables of docs/screen.md.

    PYTHONPATH=src:bench python bench/before_swaps.py FOLDER...   # folders of runs with their evidence
    PYTHONPATH=src:bench python bench/before_swaps.py FOLDER --time   # sweeps timed on all patients of a target

Verdicts are of one seed each, by the rule `mean` and the tolerance below.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pandas as pd
from common import machine, table

from prrmse.engine.until import FIRST, Rule, decide, looks
from prrmse.names import GROUP, PAIR_COLUMNS
from prrmse.settings import Compute, Stopping, Verdict
from prrmse.tables.screen import predictors_table
from prrmse.tables.store import read_table

SETTINGS = Verdict()
RATES = (0.05, 0.01)
ORDERS = 100
KEYS = [*GROUP, "seed", *PAIR_COLUMNS]


class Sweep(NamedTuple):
    """A sweep of one target from one source.

    ``name``: run and network; ``pairs``: what was known of each, drop, verdict; ``drops``: ``[pairs, patients]``;
    ``own``: Dice of the target itself by patient.
    """

    name: str
    pairs: pd.DataFrame
    drops: np.ndarray
    own: np.ndarray


def sweeps(folder: Path, targets: Collection[str]) -> Iterator[Sweep]:
    """Every sweep of these targets in a run (of all, if none is named) of which the screen is there, too."""
    for screen in sorted(folder.glob("results/evidence/screen/*/*/seed*.csv")):
        if targets and screen.parts[-2] not in targets:
            continue
        known = read_table(screen)
        for source in known["source"].unique():
            net, target, seed = screen.parts[-3], screen.parts[-2], screen.name
            swept = folder / "results/swap" / net / target / str(source) / seed
            if not swept.is_file():
                continue
            rows = read_table(swept)
            rows = rows[rows["class"] == "mean"].assign(drop=lambda t: t["baseline"] - t["dice"])
            wide = rows.pivot_table(index=KEYS, columns="patient", values="drop", sort=False)
            own = rows.groupby("patient")["baseline"].first().reindex(wide.columns)
            pairs = wide.mean(axis=1).rename("drop").reset_index().merge(known, on=KEYS, validate="one_to_one")
            pairs["reusable"] = pairs["drop"] <= SETTINGS.tolerance
            yield Sweep(f"{folder.resolve().name}: {net}", pairs, wide.to_numpy(), own.to_numpy())


def told_before(found: list[Sweep]) -> str:
    """How well each predictor tells what is not reusable."""
    rows = []
    for name in dict.fromkeys(sweep.name for sweep in found):
        own = [sweep for sweep in found if sweep.name == name]
        # Seeds are sources of their own here, since verdicts are of one seed each.
        pairs = pd.concat([s.pairs.assign(source=f"{s.pairs['source'].iloc[0]} {i}") for i, s in enumerate(own)])
        told = predictors_table(pairs.assign(net=name), SETTINGS)
        for row in told.to_dict("records"):
            rows.append({
                "network": name, "kinds": row["kinds"], "known before": row["predictor"],
                "AUROC": f"{row['auroc']:.2f} ({row['auroc_low']:.2f} to {row['auroc_high']:.2f})",
                "rho": f"{row['rho']:.2f}", "sweeps": row["n_sources"], "pairs": row["n_pairs"],
                "reusable": f"{row['reusable']:.0%}",
            })  # fmt: skip
    return "## What tells a verdict before the swap\n\n" + table(rows)


def below(found: list[Sweep], limits: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2)) -> str:
    """How many swaps have an estimate below a limit, and how many of them are harmful."""
    rows = []
    for limit in limits:
        for name in dict.fromkeys(sweep.name for sweep in found):
            every = pd.concat([s.pairs for s in found if s.name == name])
            every = every[~every["final"]]
            low = every[every["first_order"] < limit]
            rows.append({
                "estimate below": limit, "network": name, "swaps": len(low), "of all": f"{len(low) / len(every):.0%}",
                "harmful": int((~low["reusable"]).sum()), "largest drop": f"{low['drop'].max():.3f}",
                "harmful ones in all": int((~every["reusable"]).sum()),
            })  # fmt: skip
    return f"## Swaps with a small estimate; harmful: a mean drop above {SETTINGS.tolerance:g}\n\n" + table(rows)


def until_decided(found: list[Sweep]) -> str:
    """What early stopping saves and gets wrong: patients in random orders, and drops scaled to lie at the tolerance."""
    rows = []
    for stopping in get_args(Stopping):
        for error in RATES:
            rule = Rule(SETTINGS.tolerance, error, stopping)
            for name in dict.fromkeys(sweep.name for sweep in found):
                several = [s for s in found if s.name == name and len(s.own) > FIRST]
                counted = pd.DataFrame([share for sweep in several for share in _wrong(sweep, rule)])
                patients = [len(sweep.own) for sweep in several]
                row: dict[str, object] = {
                    "rule": stopping, "rate": error, "network": name, "sweeps": len(patients),
                    "patients": f"{min(patients)} to {max(patients)}",
                    "measured": f"{counted['measured'].mean():.0%}",
                }  # fmt: skip
                for what, text in (("reusable", "reusable, called not"), ("harmful", "not reusable, called so")):
                    own = counted[counted["of"] == what]["wrong"]
                    row[text] = f"{own.mean():.2%}"
                    row[f"{text}: worst pair"] = f"{own.max():.0%}"
                for what, text in (("just below", "called not, just below"), ("just above", "called so, just above")):
                    own = counted[counted["of"] == what]["wrong"]
                    row[text] = f"{own.mean():.1%}, worst pair {own.max():.0%}"
                rows.append(row)
    title = f"## Sweeps until decided, {ORDERS} orders of the patients; below and above: drops scaled to the tolerance"
    return f"{title}\n\n" + table(rows)


def _wrong(sweep: Sweep, rule: Rule) -> Iterator[dict[str, object]]:
    """By pair: how often its verdict is wrong, and the share of the patients it was measured on."""
    truth = sweep.drops.mean(1) <= rule.tolerance
    cases = {"reusable": (sweep.drops[truth], True), "harmful": (sweep.drops[~truth], False)}
    cases |= {"just below": (at_tolerance(sweep, -1e-6), True), "just above": (at_tolerance(sweep, 1e-6), False)}
    for what, (drops, is_reusable) in cases.items():
        rng = np.random.default_rng(0)
        wrong, seen = np.zeros((2, len(drops)))
        for _ in range(ORDERS):
            order = rng.permutation(len(sweep.own))
            verdict, patients = stopped(drops[:, order], sweep.own[order], rule)
            wrong += (verdict != is_reusable) / ORDERS
            seen += patients / len(order) / ORDERS
        is_own = what in ("reusable", "harmful")
        yield from (
            {"of": what, "wrong": w, "measured": s if is_own else np.nan} for w, s in zip(wrong, seen, strict=True)
        )


def stopped(drops: np.ndarray, own: np.ndarray, rule: Rule) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts (bool) and patients measured, as `prrmse.engine.until.sweep_until_decided` finds them."""
    verdict, seen = drops.mean(1) <= rule.tolerance, np.full(len(drops), len(own))
    for patients in looks(len(own))[:-1]:
        now = decide(drops[:, :patients], own, rule)
        decided = (now >= 0) & (seen == len(own))
        verdict[decided], seen[decided] = now[decided] == 1, patients
    return verdict, seen


def at_tolerance(sweep: Sweep, beyond: float) -> np.ndarray:
    """Drops of real shapes scaled so that their mean is the tolerance and ``beyond``: where verdicts are hardest.

    Of pairs that drop by more than 0.005, below which it would be noise that is scaled, and by no more than the target
    has in any patient afterwards.
    """
    mean = sweep.drops.mean(1, keepdims=True)
    chosen = mean[:, 0] > 0.005
    scaled = sweep.drops[chosen] * (SETTINGS.tolerance + beyond) / mean[chosen]
    found: np.ndarray = scaled[((scaled <= sweep.own) & (scaled >= sweep.own - 1)).all(1)]
    return found


def on_few() -> str:
    """What becomes of a harmful pair that fails on few patients only, from a Dice of 0.9."""
    rows = []
    for total, failing, drop in ((10, 1, 0.6), (60, 4, 0.8), (60, 8, 0.9), (60, 20, 0.2), (200, 20, 0.55)):
        rng = np.random.default_rng(0)
        one = np.where(np.arange(total) < failing, drop, 0.0)
        drops = np.array([rng.permutation(one) for _ in range(4000)])
        row: dict[str, object] = {"patients": total, "failing": failing, "by": drop, "mean drop": f"{one.mean():.3f}"}
        for stopping in get_args(Stopping):
            verdict, seen = stopped(drops, np.full(total, 0.9), Rule(SETTINGS.tolerance, RATES[0], stopping))
            row |= {
                f"{stopping}: called reusable": f"{verdict.mean():.1%}",
                f"{stopping}: measured": f"{seen.mean() / total:.0%}",
            }
        rows.append(row)
    return f"## Pairs that fail on few patients, 4000 orders, a rate of {RATES[0]:g}\n\n" + table(rows)


def timed(folder: Path) -> str:
    """Seconds of the screen, of sweeps until decided and of a whole one, on all patients of each network's target."""
    from prrmse import api
    from prrmse.data.slices import load_slices
    from prrmse.learning.device import set_up_process
    from prrmse.learning.evaluate import Evaluation
    from prrmse.nets.checkpoint import load_network

    set_up_process("auto", 1)
    rows = []
    for own in sorted(folder.glob("results/checkpoints/*/acdc-seg/seed0.safetensors")):
        network, _ = load_network(own)
        evaluation = Evaluation(load_slices(folder / "data/processed/acdc.npz"), Compute(), 4)
        source = own.parents[1] / "t1-seg" / own.name
        sweep = partial(api.sweep, network, source, evaluation)
        screen, _ = clock(partial(api.screen, network, {"s": source}, evaluation))
        whole, every = clock(sweep)
        row: dict[str, object] = {
            "network": own.parts[-3], "patients": len(evaluation.patients), "slices": len(evaluation.whole.image),
            "pairs": len(every.attrs["measured"]), "screen, s": f"{screen:.1f}", "whole, s": f"{whole:.1f}",
        }  # fmt: skip
        for stopping in get_args(Stopping):
            early, some = clock(partial(sweep, until_decided=RATES[0], stopping=stopping))
            drops = [t.assign(drop=t["baseline"] - t["score"]).groupby("tensor")["drop"].mean() for t in (some, every)]
            differ = int(((drops[0] <= SETTINGS.tolerance) != (drops[1] <= SETTINGS.tolerance)).sum())
            row |= {f"{stopping}, s": f"{early:.1f}", "ratio " + stopping: f"{whole / early:.2f}"}
            row[f"verdicts that differ, {stopping}"] = differ
        rows.append(row)
    return f"## One sweep by `fast`, one thread, a rate of {RATES[0]:g}\n\n" + table(rows)


def clock(work: Callable[[], pd.DataFrame]) -> tuple[float, pd.DataFrame]:
    """Seconds, and what was made."""
    begun = time.perf_counter()
    made = work()
    return time.perf_counter() - begun, made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="FOLDER[=TARGET,...]", help="of a run; only these targets of it")
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args()
    if options.time:
        measured = timed(Path(options.folders[0]))  # sets the number of threads
        print(f"{machine()}\n\n{measured}")
        return
    named = [folder.partition("=") for folder in options.folders]
    found = [s for path, _, targets in named for s in sweeps(Path(path), targets.split(",") if targets else ())]
    if not found:
        sys.exit("no screens with their sweeps there; run snakemake evidence first")
    for part in (told_before(found), below(found), until_decided(found), on_few()):
        print(f"{part}\n", flush=True)


if __name__ == "__main__":
    main()
