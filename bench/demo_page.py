"""Write the tables of docs/demo.md, docs/evidence.md and the pictures from results/: `make demo-page`.

After `make` and `snakemake evidence`; `--only study --run .`, after `snakemake study`: docs/study.md and its tables.

What stands above the first table of a page is written by hand and stays.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd
import torch
from common import processor

from prrmse.config.params import read_params
from prrmse.figures.study import draw_study
from prrmse.figures.style import Drawing
from prrmse.report.page import base_summary
from prrmse.report.study import CONNECTED, RAW, study_page
from prrmse.tables.markdown import markdown_table
from prrmse.tables.store import read_table, write_table

ROOT = Path(__file__).parents[1]
TABLES = ROOT / "results" / "tables"
IMAGES = ROOT / "docs" / "images"
CHECKPOINTS = ROOT / "results" / "checkpoints" / "unet"
FIRST = "## Base models"
HOLDS = "## What holds"
ANSWERS = "## Answers"
PICTURE = r"\]\((\w+)\.png\)"


def read(name: str) -> pd.DataFrame:
    """A table of the run."""
    return pd.read_csv(TABLES / f"{name}.csv", keep_default_na=False, na_values=[""])


def demo() -> None:
    """docs/demo.md and its pictures."""
    page = ROOT / "docs" / "demo.md"
    head = page.read_text().partition(FIRST)[0]
    mean = "Mean ± SD over seeds; Dice per patient over all its slices, then the mean over the validation patients."
    parts = [
        f"{FIRST}\n\n{mean}\n\n{markdown_table(base_summary(read('base')))}",
        f"## Reusable shares (network.csv)\n\n{markdown_table(read('network'))}",
        f"## Claims (claims.csv)\n\n{markdown_table(read('claims')[['claim', 'text', 'answer', 'statistic']])}",
        f"## Transfer (transfer.md)\n\n{(TABLES / 'transfer.md').read_text().strip()}",
    ]
    page.write_text(head + "\n\n".join(parts) + "\n")
    for name in ("fig03", "verdict", "transfer", "examples_unet"):
        shutil.copy(ROOT / "results" / "figures" / f"{name}.png", IMAGES)


def evidence() -> None:
    """docs/evidence.md and its pictures."""
    page = ROOT / "docs" / "evidence.md"
    found = (ROOT / "results" / "evidence" / "evidence.md").read_text()
    found = with_pictures(found, ROOT / "results" / "evidence")
    page.write_text(page.read_text().partition(HOLDS)[0] + HOLDS + found.partition(HOLDS)[2])


def with_pictures(text: str, folder: Path) -> str:
    """A page of the workflow with its pictures, which are copied, as seen from docs/."""
    for name in re.findall(PICTURE, text):
        shutil.copy(folder / f"{name}.png", IMAGES)
    return re.sub(PICTURE, r"](images/\1.png)", text)


def tools() -> None:
    """The pictures that `prrmse compare` and `prrmse sweep` draw."""
    prrmse = [f"{Path(sys.executable).parent}/prrmse"]
    pair = [str(CHECKPOINTS / model / "seed0.safetensors") for model in ("acdc-seg", "t1-seg")]
    data = ["--data", str(ROOT / "data/processed/acdc.npz")]
    for command in (["compare", *pair], ["sweep", *pair, *data]):
        subprocess.run(
            [*prrmse, *command, "--figure", str(IMAGES / f"{command[0]}.png")], check=True, stdout=subprocess.DEVNULL
        )


def study(run: Path | None) -> None:
    """docs/study.md, its pictures, and docs/study/: the tables that it is made from.

    Args:
        run: a checkout in which `snakemake study` ran; what its run has not (it was without
            configs/study_ancestry.yaml, say) stays as it is. None: the page is made again from docs/study/.
    """
    page, kept = ROOT / "docs" / "study.md", ROOT / "docs" / "study"
    hand, _, before = page.read_text().partition(ANSWERS)
    first_line = before.strip().partition("\n")[0]
    if run is not None:
        take_tables(run / "results" / "study", kept)
        first_line = ran(run)
    params = read_params(ROOT / "params.yaml", ROOT / "configs/study.yaml", ROOT / "configs/study_ancestry.yaml")
    raw = {name: read_table(kept / f"{name}.csv") for name in (*RAW, *CONNECTED) if (kept / f"{name}.csv").is_file()}
    assert params.study is not None
    made, tables = study_page(raw, params.study, params.verdict)
    with tempfile.TemporaryDirectory() as folder:
        drawing = Drawing(params.figures, params.verdict)
        draw_study({**raw, **tables}, params.study.nets[0], drawing, Path(folder))
        found = with_pictures(made, Path(folder))
    page.write_text(f"{hand}{ANSWERS}\n\n{first_line}{found.partition(ANSWERS)[2]}")


def take_tables(folder: Path, kept: Path) -> None:
    """The tables of a run; of networks that it has no base models of, those that were there."""
    kept.mkdir(exist_ok=True)
    before = read_table(kept / "base.csv")
    for name in (*RAW, *CONNECTED):
        table = folder / f"{name}.csv"
        if table.is_file() and table.read_text().count("\n") > 1:
            shutil.copy(table, kept)
    base = read_table(kept / "base.csv")
    write_table(pd.concat([base, before[~before["net"].isin(base["net"])]], ignore_index=True), kept / "base.csv")


def ran(run: Path) -> str:
    """With which commit, where, and for how long the study ran."""
    commit = subprocess.check_output(["git", "-C", str(run), "describe", "--always", "--dirty"], text=True).strip()
    folders = [
        *(run / "benchmarks").glob("study_*"),
        *(run / "benchmarks" / name for name in ("base", "swap", "control")),
    ]
    tables = [pd.read_csv(path, sep="\t") for folder in folders for path in folder.rglob("*.tsv")]
    hours = pd.concat(tables)["s"].sum() / 3600
    return (
        f"Of a run with commit {commit}, torch {torch.__version__}, on {processor()}: {len(tables)} trainings, "
        f"searches and sweeps, {hours:.1f} hours of one core in all."
    )


def main() -> None:
    parts = {"demo": demo, "evidence": evidence, "tools": tools}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=[*parts, "study"])
    parser.add_argument("--run", type=Path, help="for study: the checkout in which it ran; without: its kept tables")
    a = parser.parse_args()
    for name, part in parts.items():
        if a.only in (None, name):
            part()
    if a.only == "study":
        study(a.run)


if __name__ == "__main__":
    main()
