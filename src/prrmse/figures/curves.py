"""The training curves of the base models (ours)."""

from __future__ import annotations

import seaborn as sns
from matplotlib.figure import Figure

from prrmse.figures.style import NET_NAMES, Drawing, Tables, absent, colours, footnote, legend_above, panel_grid
from prrmse.names import split_model

# What is shown of each task.
SHOWN = {"seg": ("dice", "Dice of the batch"), "auto": ("loss", "loss of the batch")}


def training_curves(tables: Tables, settings: Drawing) -> Figure:
    """Dice of segmentation models and loss of auto-encoders against steps: mean and range over seeds."""
    curves = tables["curves"]
    nets, tasks = (list(dict.fromkeys(curves[column])) for column in ("net", "task"))
    curves = curves.assign(dataset=[split_model(model)[0] for model in curves["model"]])
    palette = colours(list(dict.fromkeys(curves["dataset"])), settings.style.palette)
    figure, axes = panel_grid(len(nets), len(tasks), 2.2)
    places = [(net, task) for net in nets for task in tasks]
    for ax, (net, task) in zip(axes, places, strict=True):
        column, label = SHOWN[task]
        rows = curves[(curves["net"] == net) & (curves["task"] == task)].dropna(subset=column)
        if rows.empty:
            absent(ax, "no such models")
            continue
        sns.lineplot(rows, x="step", y=column, hue="dataset", palette=palette, errorbar=("pi", 100), ax=ax)
        if (legend := ax.get_legend()) is not None:  # one for all panels stands above them
            legend.remove()
        ax.set_xlabel("step")
        ax.set_ylabel(label)
        ax.set_title(f"{NET_NAMES.get(net, net)}, {task}")
    legend_above(figure, axes, 6)
    seeds = curves["seed"].nunique()
    footnote(
        figure,
        tables,
        f"Line: mean over {seeds} seed{'s' if seeds > 1 else ''}; band: lowest to highest. The learning rate falls to "
        "zero, so a curve is flat at its end by itself. Ours, not the paper's.",
    )
    return figure
