"""The report of a run: one self-contained HTML page."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from prrmse.figures.outcome import LARGEST_DROP
from prrmse.figures.style import NET_NAMES
from prrmse.figures.titles import NUMBERED, figure_titles
from prrmse.names import GROUP, KINDS
from prrmse.report.summary import sentences
from prrmse.tables.paper import comparison, note

# Tables that the page offers as a file.
DOWNLOADS = ("data", "base", "network", "verdict", "transfer")

# What columns are called on the page.
HEADINGS = {
    "n_pairs": "pairs",
    "fraction_pairs": "reusable pairs",
    "fraction_scalars": "parameters in them",
    "fraction_kernels": "reusable kernels",
    "is_rn": "RN",
    "pixel_fraction": "share of pixels",
    "drop_low": "from",
    "drop_high": "to",
}
# By the first letters of a figure's name: what one sees, for those who do not.
ALTS = {
    **dict.fromkeys(
        ("fig03", "fig04", "fig05", "fig07", "fig08", "swaps"),
        "Line charts: Dice after the swap against the number of the layer, one line for each source, the target's own "
        "Dice dashed, the tolerance as a grey band",
    ),
    **dict.fromkeys(
        ("fig06", "fig10", "rmse_"),
        "Line charts: RMSE between the target's and each source's kernel against the number of the layer",
    ),
    "fig09": "Line charts: mean shift and scale of a layer's output against its number, one line for each source",
    "fig11": "Heatmaps: mean RMSE between every two base models, one map for each network",
    "fig12": "Line charts: RMSE against the number of the layer, pairs grouped by shared data set or task",
    "curve": "Line charts: Dice or loss of the batch against the step of the training, one line for each data set",
    "trans": "Dots: Dice of each run by source, arm and patients, the mean as a bar, the paper's as a diamond",
}


class Cell(NamedTuple):
    """A cell of a map: how strong its colour is (0 to 1), what is said of it, and a mark."""

    shade: float
    text: str
    mark: str = ""


class Map(NamedTuple):
    """A title, and rows of cells by name."""

    title: str
    rows: list[tuple[str, list[Cell]]]


def render_report(
    tables: Mapping[str, pd.DataFrame], figures: Path, params: Mapping[str, Any], environment: Mapping[str, str]
) -> str:
    """The page, without any external resource.

    Args:
        tables: the contract's tables by name.
        figures: folder of the SVG files.
        params: every section of params.
        environment: versions and machine.
    """
    base, verdict = tables["base"], tables["verdict"]
    nets = list(base["net"].unique())
    # The paper's figures are empty in a run without its networks; the verdicts are drawn as a map.
    titles = {k: v for k, v in figure_titles(nets).items() if set(nets) & set(NUMBERED) or k[:3] != "fig"}
    del titles["verdict"]
    return template("report.html.j2").render(
        found=sentences(tables, params["verdict"]["tolerance"]),
        provenance=sorted(set(tables["data"]["provenance"])),
        data=tables["data"].round(4).rename(columns=HEADINGS),
        base=base_summary(base),
        examples={net: inline(path) for net in nets if (path := figures / f"examples_{net}.svg").is_file()},
        network=tables["network"].round(3).rename(columns=HEADINGS),
        pairs=verdict.drop(columns=["n_patients", "n_seeds"]).round(3).rename(columns=HEADINGS),
        verdict_maps=verdict_maps(verdict),
        largest=LARGEST_DROP,
        rmse_maps=rmse_maps(tables["rmse"], verdict),
        transfer=comparison(tables["transfer"]),
        transfer_note=note(tables["transfer"], tables["data"]),
        plan=params.get("transfer", {}).get("plan", ""),
        claims=tables["claims"],
        images={name: inline(figures / f"{name}.svg") for name in titles},
        titles=titles,
        alts=ALTS,
        downloads={name: data_url(tables[name].to_csv(index=False).encode(), "text/csv") for name in DOWNLOADS},
        seeds=sorted(base["seed"].unique()),
        patients=int(verdict["n_patients"].max()),
        verdict=params["verdict"],
        params=json.dumps(dict(params), indent=1, sort_keys=True),
        environment=environment,
    )


def verdict_maps(verdict: pd.DataFrame) -> dict[str, list[Map]]:
    """Drops of each (net, target, source) by net, a row for each kind and a column for each layer."""
    found: dict[str, list[Map]] = {}
    for (net, target, source), rows in verdict.groupby(GROUP, sort=False):
        share = rows[~rows["final"]]["reusable"].mean()
        title = f"{NET_NAMES.get(str(net), str(net))}, {target} from {source}: {share:.0%} of pairs reusable"
        found.setdefault(str(net), []).append(Map(title, kind_rows(rows)))
    return found


def kind_rows(verdict: pd.DataFrame) -> list[tuple[str, list[Cell]]]:
    """Drops of one source as rows of a map: by kind, a cell for each layer.

    Args:
        verdict: kind, layer, module, drop, drop_low, drop_high (no number where a sweep stopped early), reusable.
    """
    kinds = {
        kind: [
            Cell(
                round(float(np.clip(row["drop"] / LARGEST_DROP, 0, 1)), 3),
                f"{kind} {row['layer']}, {row['module']}: drop {row['drop']:.3f}"
                + (f" ({row['drop_low']:.3f} to {row['drop_high']:.3f})" if pd.notna(row["drop_low"]) else "")
                + (", reusable" if row["reusable"] else ""),
                "•" if row["reusable"] else "",
            )
            for row in verdict[verdict["kind"] == kind].sort_values("layer").to_dict("records")
        ]
        for kind in KINDS
    }
    return [(kind, cells) for kind, cells in kinds.items() if cells]


def rmse_maps(rmse: pd.DataFrame, verdict: pd.DataFrame) -> list[Map]:
    """Relative RMSE of each kernel between the targets and their sources, a row for each source."""
    kernels = rmse[rmse["kind"] == "W"]
    # Each two models stand in the table once.
    both = pd.concat([kernels, kernels.rename(columns={"model_a": "model_b", "model_b": "model_a"})])
    means = both.groupby(["net", "model_a", "model_b", "layer", "module"])["rmse_relative"].mean().reset_index()
    found = []
    for (net, target), rows in verdict.groupby(["net", "target"], sort=False):
        own = means[(means["net"] == net) & (means["model_a"] == target)].sort_values("layer")
        sources = []
        for source in rows["source"].unique():
            layers = own[own["model_b"] == source].itertuples()
            cells = [
                Cell(round(min(row.rmse_relative, 1), 3), f"W {row.layer}, {row.module}: {row.rmse_relative:.3f}")
                for row in layers
            ]
            sources.append((str(source), cells))
        name = NET_NAMES.get(str(net), str(net))
        found.append(Map(f"{name}: relative RMSE of kernels between {target} and its sources", sources))
    return found


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
    """A PNG or SVG file as a data URL."""
    return data_url(path.read_bytes(), {".png": "image/png", ".svg": "image/svg+xml"}[path.suffix])


def data_url(content: bytes, kind: str) -> str:
    """A file as a URL that holds it."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
