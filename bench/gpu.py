"""What only a GPU can show, checked and timed in one run of some minutes, as Markdown.

Parts come in the order of their importance. A part that fails says so in one line (its traceback goes to standard
error) and the next one follows; one that would begin after the time is up is named as not run. Ratios are measured
within this run.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gpu_checks
import gpu_sweeps
import torch
from common import NETS, PAPER, machine, noise, pair, seconds, table
from sweeps import against_the_floor
from trainings import against_others, ours, side_by_side, step_and_start

from prrmse.config.params import read_params
from prrmse.engine.sweep import sweep
from prrmse.learning.device import set_up_process
from prrmse.learning.evaluate import Evaluation
from prrmse.nets.layers import inventory
from prrmse.settings import Compute

ROOT = Path(__file__).parents[1]
# Of real data, which is not here: validation slices of ACDC, 50 patients of two frames of about ten slices.
VALIDATION_SLICES = 950


def gpu() -> str:
    """GPU, driver, versions."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    found = subprocess.run(query, text=True, capture_output=True, check=True).stdout.strip()
    return f"{machine()}; {found}; CUDA {torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}"


def paper_scale(steps: int, slices: int) -> str:
    """How long configs/paper.yaml takes on this machine, from a step and a sweep of its networks."""
    params = read_params(ROOT / "params.yaml", ROOT / "configs" / "paper.yaml")
    models, seeds = len(params.datasets) * len(params.tasks), len(params.seeds)
    sources = sum(len(listed) for listed in params.swap.sources.values())
    transfer = params.transfer
    arms = sum(1 if arm == "scratch" else len(transfer.sources) for arm in transfer.arms)
    arms *= len(transfer.samples) * seeds
    data = noise(64)
    rows: list[dict[str, object]] = []
    total = 0.0
    for net, arguments in PAPER.items():
        step, start = step_and_start(partial(ours, net, arguments, data), steps, params.base.batch_size)
        target, source = pair(net, arguments)
        evaluation = Evaluation(noise(slices), Compute(), 4)
        run = partial(sweep, target, source.state_dict(), inventory(target), evaluation)
        a_slice = seconds(run, 2) / slices
        trainings = {"base": (models * seeds, params.base.steps)}
        if net in transfer.nets:
            trainings["transfer"] = arms, transfer.train.steps
        for what, (number, length) in trainings.items():
            took = number * (start + length * step)
            total += took
            rows.append({"network": net, "what": f"{what}: {number} trainings x {length} steps",
                         "one": f"{1000 * step:.1f} ms a step, {start:.1f} s once",
                         "hours": f"{took / 3600:.2f}"})  # fmt: skip
        sweeps = sources * seeds
        took = sweeps * a_slice * VALIDATION_SLICES
        total += took
        rows.append({"network": net, "what": f"{sweeps} sweeps x {VALIDATION_SLICES} slices",
                     "one": f"{1000 * a_slice:.1f} ms a slice, all pairs", "hours": f"{took / 3600:.2f}"})  # fmt: skip
    title = "\n### configs/paper.yaml on this machine, one job at a time, extrapolated; without starts of processes\n\n"
    return title + table(rows) + f"\n\nTogether {total / 3600:.1f} h."


def checks(quick: bool) -> dict[str, Callable[[], str]]:
    """By name, the most important first."""
    return {
        "trainings": gpu_checks.reproducibility,
        "pixels": lambda: gpu_sweeps.against_an_oracle(*((4, 30) if quick else (48, 1))),
        "others": gpu_checks.of_others,
        "frozen": gpu_checks.frozen,
        "cpu": gpu_checks.against_the_cpu,
        "lease": gpu_checks.lease,
        "memory": gpu_checks.out_of_memory,
    }


def timings(quick: bool) -> dict[str, Callable[[], str]]:
    """By name, the most important first."""
    return {
        "sweep": lambda: gpu_sweeps.against_baselines(4 if quick else 200, NETS, compiled=not quick),
        "steps": lambda: against_others(2 if quick else 60),
        "paper": lambda: paper_scale(*((2, 1) if quick else (60, 96))),
        "paper-sweep": lambda: gpu_sweeps.against_baselines(1 if quick else 96, PAPER, compiled=False),
        "paper-steps": lambda: against_others(2 if quick else 30, PAPER, 16),
        "floor": lambda: against_the_floor(*((2, 60) if quick else (200, 9))),
        "side-by-side": lambda: side_by_side(4 if quick else 300),
    }


def run(chosen: dict[str, Callable[[], str]], minutes: float, out: Path) -> int:
    """Print each part as soon as it is there, and append it to ``gpu.md``; the number of parts that failed."""
    start = time.perf_counter()
    failed = 0
    page = out / "gpu.md"
    found: dict[str, int] = {}

    def say(text: str) -> None:
        print(text, flush=True)
        with page.open("a") as f:
            f.write(text + "\n")

    for name, part in chosen.items():
        begun = time.perf_counter()
        if begun - start > 60 * minutes:
            say(f"\n### {name}: not run, the time was up")
            continue
        try:
            with gpu_checks.collected_warnings(found):
                text = part()
        except Exception as e:
            failed += 1
            text = f"\n### {name}: FAILED, {gpu_checks.first_line(e)}"
            traceback.print_exc()
        say(f"{text}\n\n({name}: {time.perf_counter() - begun:.0f} s)")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    rows = [{"warning": text, "times": n} for text, n in found.items()]
    say("\n### Warnings of torch and others\n\n" + (table(rows) if rows else "none"))
    return failed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=8, help="no part begins later than that")
    parser.add_argument("--out", type=Path, default=Path("results/gpu"), help="where gpu.md goes")
    parser.add_argument("--only", nargs="+", help="checks, timings, or names of parts")
    parser.add_argument("--quick", action="store_true", help="much less of everything: shows that it runs")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    faulthandler.dump_traceback_later(60 * options.minutes + 90, exit=True)  # a part that hangs
    set_up_process("auto", 1)
    groups = {"checks": checks(options.quick), "timings": timings(options.quick)}
    wanted = options.only or list(groups)
    chosen = {n: part for group, all_ in groups.items() for n, part in all_.items() if {group, n} & set(wanted)}
    raise SystemExit(1 if run({"machine": gpu, **chosen}, options.minutes, options.out) else 0)


if __name__ == "__main__":
    main()
