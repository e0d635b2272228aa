"""Ratios against named baselines, each measured in this one run, as Markdown: `make bench`."""

from __future__ import annotations

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path

from ablation import ablation
from common import machine
from competitors import against_compiled
from overhead import against_imports
from sweeps import (
    against_the_floor,
    against_whole_passes,
    at_paper_width,
    by_evaluation_precision,
    growth,
    on_networks_of_libraries,
)
from trainings import against_others, side_by_side

from prrmse.learning.device import set_up_process

PARTS = (
    "overhead",
    "sweep",
    "width",
    "libraries",
    "compiled",
    "floor",
    "precision",
    "training",
    "sharing",
    "growth",
    "ablation",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("results/benchmark"), help="where the figure goes")
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="much less of everything: shows that it runs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    set_up_process("auto", min(2, os.cpu_count() or 1))
    quick = options.quick
    print(f"{machine()}\n", flush=True)
    parts: dict[str, Callable[[], str]] = {
        "overhead": against_imports,
        "sweep": lambda: against_whole_passes(8 if quick else 64),
        "width": lambda: at_paper_width(2 if quick else 48, 40 if quick else 1),
        "libraries": lambda: on_networks_of_libraries(*((2, 60, 64) if quick else (48, 1))),
        "compiled": lambda: against_compiled(*((16, 60, 64) if quick else (48, 18))),
        "floor": lambda: against_the_floor(*((8, 60) if quick else (64, 9))),
        "precision": lambda: by_evaluation_precision(*((2, 40) if quick else (48, 9))),
        "training": lambda: against_others(2 if quick else 24),
        "sharing": lambda: side_by_side(4 if quick else 60),
        "growth": lambda: growth(options.folder, 4 if quick else 50),
        "ablation": lambda: ablation(*((1, 40, 1) if quick else (20, 13, 2))),
    }
    for name, measured in parts.items():
        if options.only in (None, name):
            print(measured(), flush=True)


if __name__ == "__main__":
    main()
