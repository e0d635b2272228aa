"""Every figure of the paper by its number, and three of ours (see prrmse.figures.titles)."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from prrmse.figures.curves import training_curves
from prrmse.figures.distances import bn_shifts, rmse_by_layer, rmse_groups, rmse_matrices
from prrmse.figures.outcome import transfer_gain, verdict_map
from prrmse.figures.style import Drawing, Tables, save, use_style
from prrmse.figures.swaps import swap_panels
from prrmse.figures.titles import NUMBERED
from prrmse.files import report_written, written
from prrmse.names import BN_KINDS, KINDS


def draw_figures(tables: Tables, settings: Drawing, out: Path) -> None:
    """Write every figure as SVG and PNG.

    Args:
        tables: the contract's tables by name, and ``curves`` (`prrmse.tables.curves.curves_table`).
        settings: style, verdict, target.
        out: folder.
    """
    tables = {k: t[t["target"] == settings.target] if "target" in t else t for k, t in tables.items()}
    # Two at a time: drawing is what a user waits for after a change of the verdict or of the style.
    with ProcessPoolExecutor(2) as pool:
        for files in pool.map(partial(_write, tables, settings, out), _drawings(tables, settings)):
            report_written(files)


def _write(tables: Tables, settings: Drawing, out: Path, name: str) -> set[Path]:
    use_style(settings)
    with written() as files:
        save(_drawings(tables, settings)[name](), name, out, settings)
    return files


def _drawings(tables: Tables, settings: Drawing) -> dict[str, Callable[[], Figure]]:
    others = {}
    for net in (net for net in dict.fromkeys(tables["swap"]["net"]) if net not in NUMBERED):
        own = tables["swap"][tables["swap"]["net"] == net]
        kinds = [kind for kind in KINDS if kind in set(own["kind"])]
        others[f"swaps_{net}"] = partial(swap_panels, tables, settings, [(net, kind) for kind in kinds], 2)
        others[f"rmse_{net}"] = partial(rmse_by_layer, tables, settings, net)
    return {  # the slowest first, so that the two processes end together
        "verdict": lambda: verdict_map(tables, settings),
        "fig07": lambda: swap_panels(tables, settings, [("unet", kind) for kind in BN_KINDS], 2),
        "fig08": lambda: swap_panels(tables, settings, [("pspnet", kind) for kind in BN_KINDS], 2),
        "fig09": lambda: bn_shifts(tables, settings),
        "fig11": lambda: rmse_matrices(tables, settings),
        "fig03": lambda: swap_panels(tables, settings, [("unet", "W")], 1),
        "fig04": lambda: swap_panels(tables, settings, [("pspnet", "W")], 1),
        "fig05": lambda: swap_panels(tables, settings, [("unet", "B"), ("pspnet", "B")], 2),
        "fig06": lambda: rmse_by_layer(tables, settings, "unet"),
        "fig10": lambda: rmse_by_layer(tables, settings, "pspnet"),
        "fig12": lambda: rmse_groups(tables, settings),
        "curves": lambda: training_curves(tables, settings),
        "transfer": lambda: transfer_gain(tables, settings),
        **others,
    }
