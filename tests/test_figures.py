"""What single figures show: the heatmap of drops, and how many patients a transfer run had."""

import pandas as pd
import pytest
from matplotlib.figure import Figure
from tables import fabricate, transfer_rows

from prrmse.compare.distance import STATISTICS
from prrmse.figures.distances import bn_shifts, rmse_matrices
from prrmse.figures.heatmap import drop_heatmap
from prrmse.figures.outcome import in_columns, transfer_gain
from prrmse.figures.style import Drawing
from prrmse.figures.swaps import swap_panels
from prrmse.figures.tool import drops_by_layer
from prrmse.names import KIND_NAMES, KINDS

SETTINGS = Drawing()
# Layer numbers with a gap, kinds out of order, one pair that does not exist (W 7).
ROWS = pd.DataFrame(
    [("RM", 2, 0.5, False), ("RM", 7, 0.01, True), ("W", 2, 0.0, True)], columns=["kind", "layer", "drop", "reusable"]
)


def test_panels_of_a_network_are_below_each_other():
    assert in_columns(["a", "a", "a", "b", "b", "b"]) == ([0, 2, 4, 1, 3, 5], 3, 2)
    assert in_columns(["a", "a"]) == ([0, 1], 2, 1)
    assert in_columns(["a", "b", "a", "c"]) == ([0, 1, 2, 4], 3, 2), "a third network begins below the first two"


def test_small_drops_are_no_flat_line_and_equal_lines_are_both_seen():
    tables = fabricate(nets=("unet",), seeds=(0,), drop_of=lambda kind, *_: 0.6 if kind == "W" else 0.01)
    swap = tables["swap"].sort_values(["source", "kind", "layer"], ignore_index=True)
    (one, two), rows = sorted(set(swap["source"]))[:2], swap["source"]
    swap.loc[rows == two, "dice"] = swap.loc[rows == one, "dice"].to_numpy()
    figure = swap_panels({**tables, "swap": swap}, SETTINGS, [("unet", "RM"), ("unet", "W")], 2)
    small, large = (ax.get_ylim() for ax in figure.axes)
    assert 0.78 < small[0] < 0.8 and 0.9 < small[1] < 0.93, "twice the tolerance below 0.9"
    assert large[0] < 0.3 and large[1] > 0.9
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert lines[one].get_ydata().tolist() == lines[two].get_ydata().tolist()
    assert lines[one].get_linewidth() > lines[two].get_linewidth()
    assert lines[one].get_markersize() > lines[two].get_markersize()


def test_the_map_of_distances_has_each_pair_once_and_its_colours_begin_at_the_smallest():
    tables = fabricate(nets=("unet",), seeds=(0,))
    figure = rmse_matrices(tables, SETTINGS)
    drawn = figure.axes[0].collections[0]
    values = drawn.get_array()
    assert values.count() == 6, "of four models"
    assert drawn.norm.vmin == values.min() > 0.05
    own = tables["rmse"][(tables["rmse"]["kind"] == "W") & ~tables["rmse"]["final"]]
    expected = own.groupby(["model_a", "model_b"])["rmse"].mean()
    assert sorted(values.compressed()) == pytest.approx(sorted(expected))


def test_every_kind_has_a_name():
    assert tuple(KIND_NAMES) == KINDS


def test_dots_lie_on_the_reusable_pairs():
    ax = Figure().subplots()
    colours = drop_heatmap(ax, ROWS, largest=0.6)
    assert [label.get_text() for label in ax.get_yticklabels()] == ["W", "RM"], "kinds that occur, in their order"
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "7"]
    drawn, dots = ax.collections
    values = drawn.get_array().reshape(2, 2)
    assert values[0, 0] == 0 and values.mask[0, 1] and values[1].tolist() == [0.5, 0.01]
    assert sorted(dots.get_offsets().tolist()) == [[0.5, 0.5], [1.5, 1.5]], "W 2 and RM 7"
    assert (colours.norm.vmin, colours.norm.vmax) == (0, 0.6)


def test_the_tools_dots_are_drops_within_the_tolerance(tmp_path, monkeypatch):
    seen = []

    def noted(ax, rows, largest, tick_every=1):
        seen.append(rows.set_index(["kind", "layer"])["reusable"].to_dict())
        return drop_heatmap(ax, rows, largest, tick_every)

    monkeypatch.setattr("prrmse.figures.tool.drop_heatmap", noted)
    drops_by_layer(ROWS.drop(columns="reusable"), 0.05, tmp_path / "a.png")
    assert seen == [{("RM", 2): False, ("RM", 7): True, ("W", 2): True}]


def test_legend_names_both_numbers_where_patients_are_missing():
    figure = transfer_gain({"transfer": transfer_rows(lambda _: 0.0)}, SETTINGS)
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "10 patients" in names
    assert "50 patients requested, 40 available" in names


def test_networks_without_normalisations_have_empty_panels():
    columns = ["net", "target", "source", "seed", "layer", "module", *STATISTICS]
    figure = bn_shifts({"bn_shift": pd.DataFrame(columns=columns)}, SETTINGS)
    assert all("not in this run" in ax.texts[0].get_text() for ax in figure.axes)
