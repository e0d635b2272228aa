"""What the screen and early stopping save and miss, on the sweeps of finished runs: the tables of docs/screen.md.

After `make` and `snakemake evidence` (or as the head of configs/study_screen.yaml says), in a checkout:

    PYTHONPATH=src:bench python bench/screen.py FOLDER...        # FOLDER: of a run; `.` for this one
    PYTHONPATH=src:bench python bench/screen.py FOLDER --time    # sweeps timed on all patients of the first target

Verdicts are of one seed each, by the rule `mean` and the tolerance below.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from common import machine, table

from prrmse.engine.until import decide, looks
from prrmse.names import GROUP, PAIR_COLUMNS
from prrmse.settings import Compute, Verdict
from prrmse.tables.screen import predictors_table
from prrmse.tables.store import read_table

SETTINGS = Verdict()
RATES = (0.05, 0.01)
ORDERS = 100
KEYS = [*GROUP, "seed", *PAIR_COLUMNS]


class Sweep(NamedTuple):
    """``name``: run and network; ``pairs``: what was known, drop, verdict of each; ``drops``: ``[pairs, patients]``."""

    name: str
    pairs: pd.DataFrame
    drops: np.ndarray


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
            pairs = wide.mean(axis=1).rename("drop").reset_index().merge(known, on=KEYS, validate="one_to_one")
            pairs["reusable"] = pairs["drop"] <= SETTINGS.tolerance
            yield Sweep(f"{folder.resolve().name}: {net}", pairs, wide.to_numpy())


def told_before(found: list[Sweep]) -> str:
    """How well each predictor tells what is not reusable."""
    rows = []
    for name in dict.fromkeys(sweep.name for sweep in found):
        own = [sweep for sweep in found if sweep.name == name]
        # Seeds are sources of their own here, since verdicts are of one seed each.
        pairs = pd.concat([s.pairs.assign(source=f"{s.pairs['source'].iloc[0]} {i}") for i, s in enumerate(own)])
        told = predictors_table(pairs.assign(net=name, n_patients=0), SETTINGS)
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
    for rate in RATES:
        for name in dict.fromkeys(sweep.name for sweep in found):
            measured: list[float] = []
            wrong: dict[str, list[float]] = {"lost": [], "accepted": [], "lost at": [], "accepted at": []}
            for sweep in (s for s in found if s.name == name):
                rng = np.random.default_rng(0)
                truth = sweep.drops.mean(1) <= SETTINGS.tolerance
                just_below, just_above = (at_tolerance(sweep.drops, side) for side in (-1e-6, 1e-6))
                for _ in range(ORDERS):
                    order = rng.permutation(sweep.drops.shape[1])
                    verdict, seen = stopped(sweep.drops[:, order], rate)
                    measured.append(float(seen.mean() / len(order)))
                    wrong["lost"].append(_share(~verdict[truth]))
                    wrong["accepted"].append(_share(verdict[~truth]))
                    wrong["lost at"].append(_share(~stopped(just_below[:, order], rate)[0]))
                    wrong["accepted at"].append(_share(stopped(just_above[:, order], rate)[0]))
            patients = [s.drops.shape[1] for s in found if s.name == name]
            rows.append({
                "rate asked for": rate, "network": name, "sweeps": len(patients),
                "patients": f"{min(patients)} to {max(patients)}", "measured": f"{np.mean(measured):.0%}",
                **{text: f"{np.nanmean(wrong[key]):.2%}" for key, text in WRONG.items()},
            })  # fmt: skip
    return f"## Sweeps until decided, {ORDERS} orders of the patients\n\n" + table(rows)


WRONG = {
    "lost": "reusable, called not",
    "accepted": "not reusable, called so",
    "lost at": "called not, just below the tolerance",
    "accepted at": "called reusable, just above",
}


def stopped(drops: np.ndarray, rate: float) -> tuple[np.ndarray, np.ndarray]:
    """Verdicts (bool) and patients measured, as `prrmse.engine.until.sweep_until_decided` finds them."""
    total = drops.shape[1]
    verdict, seen = drops.mean(1) <= SETTINGS.tolerance, np.full(len(drops), total)
    for patients, level in looks(total, rate):
        if patients < total:
            now = decide(drops[:, :patients], total, SETTINGS.tolerance, level)
            decided = (now >= 0) & (seen == total)
            verdict[decided], seen[decided] = now[decided] == 1, patients
    return verdict, seen


def at_tolerance(drops: np.ndarray, beyond: float) -> np.ndarray:
    """Drops of real shapes scaled so that their mean is the tolerance and ``beyond``: where verdicts are hardest.

    Of pairs that drop by more than 0.005, below which it would be noise that is scaled, and not above 1 afterwards.
    """
    mean = drops.mean(1, keepdims=True)
    chosen = mean[:, 0] > 0.005
    scaled = drops[chosen] * (SETTINGS.tolerance + beyond) / mean[chosen]
    found: np.ndarray = scaled[np.abs(scaled).max(1, initial=0) <= 1]
    return found


def _share(wrong: np.ndarray) -> float:
    return float(wrong.mean()) if len(wrong) else float("nan")


def timed(folder: Path) -> str:
    """Seconds of the screen, of a sweep until decided and of a whole one, on all patients of each network's target."""
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

        def clock(work: Callable[[], pd.DataFrame]) -> tuple[float, pd.DataFrame]:
            begun = time.perf_counter()
            made = work()
            return time.perf_counter() - begun, made

        screen, _ = clock(lambda: api.screen(network, {"s": source}, evaluation))  # noqa: B023
        early, some = clock(lambda: api.sweep(network, source, evaluation, until_decided=RATES[0]))  # noqa: B023
        whole, every = clock(lambda: api.sweep(network, source, evaluation))  # noqa: B023
        drops = [t.assign(drop=t["baseline"] - t["score"]).groupby("tensor")["drop"].mean() for t in (some, every)]
        verdicts = [drop <= SETTINGS.tolerance for drop in drops]
        rows.append({
            "network": own.parts[-3], "patients": len(evaluation.patients), "slices": len(evaluation.whole.image),
            "pairs": len(drops[1]), "screen, s": f"{screen:.1f}", "until decided, s": f"{early:.1f}",
            "whole, s": f"{whole:.1f}", "ratio": f"{whole / early:.2f}",
            "verdicts that differ": int((verdicts[0] != verdicts[1]).sum()),
        })  # fmt: skip
    return "## One sweep by `fast`, one thread\n\n" + table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--targets", nargs="*", default=[], help="only these")
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args()
    if options.time:
        measured = timed(options.folders[0])  # sets the number of threads
        print(f"{machine()}\n\n{measured}")
        return
    found = [sweep for folder in options.folders for sweep in sweeps(folder, options.targets)]
    if not found:
        sys.exit("no screens with their sweeps there; run snakemake evidence first")
    for part in (told_before, below, until_decided):
        print(part(found), flush=True)
        print()


if __name__ == "__main__":
    main()
