"""The report of a run: one self-contained HTML page."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from prrmse.figures.titles import NUMBERED, figure_titles
from prrmse.tables.paper import comparison, note


def render_report(
    tables: Mapping[str, pd.DataFrame], figures: Path, params: Mapping[str, Any], environment: Mapping[str, str]
) -> str:
    """The page, without any external resource.

    Args:
        tables: the contract's tables by name.
        figures: folder of the PNG files.
        params: every section of params.
        environment: versions and machine.
    """
    base = tables["base"]
    nets = set(base["net"])
    # The paper's figures are empty in a run without its networks.
    titles = {k: v for k, v in figure_titles(base["net"].unique()).items() if nets & set(NUMBERED) or k[:3] != "fig"}
    return template("report.html.j2").render(
        provenance=sorted(set(tables["data"]["provenance"])),
        data=tables["data"].round(4),
        base=base_summary(base),
        network=tables["network"].round(3),
        transfer=comparison(tables["transfer"]),
        transfer_note=note(tables["transfer"], tables["data"]),
        claims=tables["claims"],
        images={name: inline(figures / f"{name}.png") for name in titles},
        titles=titles,
        seeds=sorted(base["seed"].unique()),
        patients=int(tables["verdict"]["n_patients"].max()),
        verdict=params["verdict"],
        params=json.dumps(dict(params), indent=1, sort_keys=True),
        environment=environment,
    )


def template(name: str) -> Template:
    """One of the pages that lie beside this module."""
    templates = Environment(
        loader=PackageLoader("prrmse", "report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return templates.get_template(name)


def base_summary(base: pd.DataFrame) -> pd.DataFrame:
    """Mean and SD over seeds of each base model: foreground Dice, or the auto-encoder's MSE."""
    rows = base[base["class"] == "mean"]
    grouped = rows.groupby(["net", "model"], sort=False)
    table = grouped.agg(seeds=("seed", "nunique"), patients=("n_patients", "max")).reset_index()
    for name in ("dice", "mse"):
        mean, sd = grouped[name].mean().to_numpy(), grouped[name].std().to_numpy()
        table[name] = [_number(float(m), float(s)) for m, s in zip(mean, sd, strict=True)]
    return table


def _number(mean: float, sd: float) -> str:
    if pd.isna(mean):
        return "-"
    return f"{mean:.3f}" if pd.isna(sd) else f"{mean:.3f} ± {sd:.3f}"


def inline(path: Path) -> str:
    """A PNG file as a data URL."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()
