"""This program and that of an earlier commit on this machine.

`python bench/since.py COMMIT` times the full sweep, and every 9th pair at the paper's widths.

`python bench/since.py COMMIT --answers` compares what they say instead: the earlier program trains its demo's base
models and sweeps its demo's first target, from the first of its sources; the present one opens the same checkpoints and
data.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from common import table

from prrmse import api
from prrmse.data.slices import load_slices
from prrmse.learning.device import set_up_process
from prrmse.nets.checkpoint import load_network

ROOT = Path(__file__).parents[1]
# Run in either checkout, with its own bench/ and src/; the first commits had other names.
TIMED = """
import common
from common import CLASSES, NETS, noise, pair, seconds
from sweeps import COMPUTE, Evaluation, inventory, sweep
try:
    from prrmse.learning.device import set_up_process as set_up
except ImportError:
    from prrmse.device import make_deterministic
    set_up = lambda device, threads: make_deterministic(threads)
set_up("auto", 2)
data = noise(32)
paper = getattr(common, "PAPER", {})
for (net, arguments), every in [*((n, 1) for n in NETS.items()), *((n, 9) for n in paper.items())]:
    target, source = pair(net, arguments)
    layers, evaluation = inventory(target)[::every], Evaluation(data, COMPUTE, CLASSES)
    took = seconds(lambda: sweep(target, source.state_dict(), layers, evaluation), 2)
    print(f"{net},{arguments['width']},{len(layers)},{took}")
"""
TABLES = ("swap", "rmse", "verdict")
PAIR = ["kind", "layer"]


def timed(checkout: Path) -> dict[tuple[str, ...], float]:
    """Seconds of a sweep of 32 slices by ``fast``, the better of two, by network, width and number of pairs."""
    path = os.pathsep.join(str(checkout / name) for name in ("src", "bench"))
    command, environment = [sys.executable, "-c", TIMED], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    lines = (line.split(",") for line in done.stdout.splitlines())
    return {tuple(network): float(value) for *network, value in lines}


def times(then: Path, commit: str) -> str:
    before, after = timed(then), timed(ROOT)
    return table([
        {"network": net, "width": width, "pairs": pairs, f"{commit}, s": f"{before[net, width, pairs]:.2f}",
         "now, s": f"{value:.2f}", "ratio": f"{before[net, width, pairs] / value:.2f}"}
        for (net, width, pairs), value in after.items()
        if (net, width, pairs) in before
    ])  # fmt: skip


def answers(then: Path) -> str:
    """Where the present program says something else of the earlier one's checkpoints and data."""
    path = then / "params.yaml"
    params: dict[str, Any] = yaml.safe_load(path.read_text())
    target, (source, *_) = next(iter(params["swap"]["sources"].items()))
    params |= {"seeds": [0], "swap": {**params["swap"], "sources": {target: [source]}}}
    path.write_text(yaml.safe_dump(params, sort_keys=False))
    command = ["snakemake", "--cores", "2", *(f"results/tables/{name}.csv" for name in TABLES)]
    subprocess.run(command, cwd=then, env={**os.environ, "PYTHONPATH": str(then / "src")}, check=True)
    earlier = {name: pd.read_csv(then / f"results/tables/{name}.csv") for name in TABLES}
    slices = load_slices(then / f"data/processed/{target.rpartition('-')[0]}.npz")
    set_up_process("auto", 2)
    rows = []
    for net in params["nets"]:
        own, other = (then / f"results/checkpoints/{net}/{model}/seed0.safetensors" for model in (target, source))
        evaluation = api.evaluation_for(load_network(own)[0], api.part_of(slices, "val"))
        swept = api.sweep(load_network(own)[0], other, evaluation, engine="exact").groupby(PAIR)
        found = swept[["score", "baseline"]].mean().join(api.compare(own, other)[0].set_index(PAIR)["rmse"])
        of_net = {name: rows[rows["net"] == net] for name, rows in earlier.items()}
        rmse = of_net["rmse"]
        between = rmse[rmse[["model_a", "model_b"]].isin([target, source]).all(axis=1)].set_index(PAIR)["rmse"]
        swap = of_net["swap"][of_net["swap"]["class"] == "mean"].set_index(PAIR)["dice"]
        reusable = of_net["verdict"].set_index(PAIR)["reusable"]
        says = (found["baseline"] - found["score"]) <= params["verdict"]["tolerance"]
        rows.append({
            "network": net,
            "distances": len(between),
            "largest relative difference": f"{(found['rmse'] / between - 1).abs().max():.0e}",
            "swaps": len(swap),
            "largest difference of mean Dice": f"{(found['score'] - swap).abs().max():.4f}",
            "verdicts that differ": int((says != reusable.reindex(says.index)).sum()),
        })  # fmt: skip
    return table(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit")
    parser.add_argument("--answers", action="store_true")
    a = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        then = Path(temporary) / "then"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(then), a.commit], check=True)
        try:
            print(answers(then) if a.answers else times(then, a.commit))
        finally:
            subprocess.run([*git, "remove", "--force", str(then)], check=True)


if __name__ == "__main__":
    main()
