"""Claims, the paper's table, figures and report, from fabricated tables with a known truth."""

import hashlib
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch.fx
from tables import SMALL, VERDICT, fabricate, transfer_rows

from prrmse.figures.draw import draw_figures
from prrmse.figures.style import Drawing
from prrmse.figures.titles import FIGURES
from prrmse.nets.build import build
from prrmse.nets.layers import inventory
from prrmse.report.page import render_report
from prrmse.settings import Figures
from prrmse.tables.answer import FAILS, HOLDS, UNDECIDED
from prrmse.tables.claims import (
    BACKBONE_KERNELS,
    NAMED_KERNELS,
    claims,
    rmse_independent_of_data_and_task,
    smallest_rmse_helps_most,
)
from prrmse.tables.paper import PAPER_ROWS, comparison, transfer_latex, transfer_markdown

STYLE = Drawing(Figures(dpi=80), VERDICT, "acdc-seg")


def answers(**planted):
    table = claims(fabricate(**planted), "acdc-seg", VERDICT)
    assert table["claim"].tolist() == list(range(1, 9))
    assert set(table["provenance"]) == {"phantom"}
    return dict(zip(table["claim"], table["answer"], strict=True))


def as_the_paper_says(kind, layer, net="pspnet"):
    """PSPNet loses by few kernels, UNet by most; RM falls off with depth; RW, RB, B harmless."""
    if kind == "W":
        named = layer in NAMED_KERNELS if net == "pspnet" else layer > 2
        return 0.4 if named else 0.0
    return {"RM": 0.5 / layer, "RV": 0.1}.get(kind, 0.0)


def against_the_paper(kind, layer, net="pspnet"):
    """The opposite of each."""
    if kind == "W":
        return 0.4 if net == "pspnet" and layer not in NAMED_KERNELS else 0.0
    return {"RW": 0.3, "RB": 0.3, "RM": layer / 40, "B": 0.3}.get(kind, 0.0)


def test_planted_truth_is_found():
    found = answers(drop_of=as_the_paper_says, gain_of=lambda s: -0.05 if s == "t1-seg" else 0.1)
    assert {n: found[n] for n in (1, 2, 3, 4, 5, 6, 7)} == dict.fromkeys((1, 2, 3, 4, 5, 6, 7), HOLDS)


def test_the_opposite_is_found_too():
    found = answers(drop_of=against_the_paper, gain_of=lambda s: 0.0 if s == "none" else 0.1)
    assert {n: found[n] for n in (1, 2, 3, 4, 5, 7)} == dict.fromkeys((1, 2, 3, 4, 5, 7), FAILS)


@pytest.mark.parametrize(("sign", "answer"), [(1, HOLDS), (-1, FAILS), (0, UNDECIDED)])
def test_the_closest_source_helps_most_or_least(sign, answer):
    """Five sources, every one nearer than the next, and better (or worse) than it."""
    names = [f"s{i}-seg" for i in range(5)]
    tables = fabricate(nets=("pspnet",))
    tables["transfer"] = transfer_rows(lambda s: -0.05 * sign * names.index(s) if s in names else 0.0, sources=names)
    distance = {"net": "pspnet", "model_a": names, "model_b": "acdc-seg", "kind": "W", "final": False}
    tables["rmse"] = pd.DataFrame({**distance, "seed": 0, "rmse": 0.01 * np.arange(1, 6)})
    assert smallest_rmse_helps_most(tables, VERDICT).answer == answer
    few = {**tables, "transfer": tables["transfer"][~tables["transfer"]["source"].isin(names[3:])]}
    assert smallest_rmse_helps_most(few, VERDICT).answer == UNDECIDED, "of three sources an order is chance"


@pytest.mark.parametrize("what", ["task", "data"])
def test_rmse_of_pairs_that_share_something(what):
    tables = fabricate(nets=("unet",), seeds=range(4))
    a, b = (tables["rmse"][c].str.split("-", expand=True) for c in ("model_a", "model_b"))
    alike = (a[1] == b[1]) if what == "task" else (a[0] == b[0])
    nearer = tables["rmse"].assign(rmse=tables["rmse"]["rmse"] * np.where(alike, 0.7, 1.0))
    assert rmse_independent_of_data_and_task(tables, VERDICT).answer == HOLDS
    found = rmse_independent_of_data_and_task({**tables, "rmse": nearer}, VERDICT)
    assert found.answer == FAILS
    assert f"same {what} -30" in found.statistic or f"same {what} -29" in found.statistic


def test_the_kernels_of_the_fifth_claim_are_those_of_the_network():
    """First; more output than input channels; and what reads one of these, through all that is no kernel and no sum."""
    network = build("pspnet", **SMALL["pspnet"])
    graph = torch.fx.symbolic_trace(network)
    number = {layer.module: layer.layer for layer in inventory(network) if layer.kind == "W"}
    kernels = {node: graph.get_submodule(node.target) for node in graph.graph.nodes if node.target in number}
    raising = [node for node, m in kernels.items() if m.out_channels > m.in_channels or number[node.target] == 1]
    found = set()
    for node in raising:
        found.add(number[node.target])
        behind = list(node.users)
        while behind:
            user = behind.pop()
            if user in kernels:
                found.add(number[user.target])
            elif user.op == "call_module":  # normalisation, activation, pooling
                behind += user.users
    assert {layer for layer in found if layer <= BACKBONE_KERNELS} == NAMED_KERNELS


def test_small_runs_are_undecided_and_never_crash():
    tables = fabricate(nets=("unet",), seeds=(0,), drop_of=as_the_paper_says)
    tables["transfer"] = tables["transfer"].iloc[:0]
    found = dict(zip(*(claims(tables, "acdc-seg", VERDICT)[c] for c in ("claim", "answer")), strict=True))
    assert {n for n, answer in found.items() if answer != UNDECIDED} <= {4}, "one seed shows only what layers show"


# ---- the printed table ----------------------------------------------------------------------------


def test_printed_means_agree_with_their_classes_but_for_one_row():
    off = [(r.samples, r.number) for r in PAPER_ROWS if abs(r.mean - r.printed_mean) > 0.0051]
    assert off == [(50, 6)]
    assert len(PAPER_ROWS) == 14


def test_table_puts_the_papers_number_beside_ours():
    tables = fabricate()
    rows = comparison(tables["transfer"]).set_index(["patients", "arm"])
    assert rows.loc[("10", "1 scratch"), "paper: printed mean"] == "0.73"
    assert rows.loc[("40 (of 50)", "5 t1-auto finetune"), "paper: classes 1-3"] == "0.86 0.86 0.93"
    text = transfer_markdown(tables["transfer"], tables["data"])
    assert "phantom" in text and "±" in text and "50 training patients were requested, 40 were available" in text
    latex = transfer_latex(tables["transfer"], tables["data"])
    assert latex.count(r"\\") == len(rows) + 1
    assert "±" not in latex


# ---- figures and report ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    tables = fabricate(drop_of=as_the_paper_says)
    out = tmp_path_factory.mktemp("figures")
    draw_figures(tables, STYLE, out)
    return tables, out


def test_every_figure_is_written_and_reproducible(drawn, tmp_path):
    tables, out = drawn
    names = {f"{name}.{ending}" for name in FIGURES for ending in ("svg", "png")}
    assert {p.name for p in out.iterdir()} == names
    assert {f"fig{i:02d}" for i in range(3, 13)} <= set(FIGURES)
    draw_figures(tables, STYLE, tmp_path)
    for name in names:
        assert (out / name).stat().st_size > 2000, name
        digest = {hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in (out, tmp_path)}
        assert len(digest) == 1, f"{name} differs between two drawings"


@pytest.mark.parametrize("net", ["unet", "pspnet"])
def test_figures_of_a_small_run_say_what_is_absent(net, tmp_path):
    tables = fabricate(nets=(net,), seeds=(0,))
    if net == "unet":
        tables["transfer"] = tables["transfer"].iloc[:0]
    draw_figures(tables, STYLE, tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 * len(FIGURES)


class Resources(HTMLParser):
    """What a browser would load to show the page: attributes that name resources, and url() and @import of styles."""

    NAMING = ("src", "srcset", "href", "xlink:href", "data", "poster", "background", "action")

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in self.NAMING and not str(value).startswith(("data:", "#")):
                self.found.append(f"{tag} {name}={value}")
            elif name == "style":
                self.handle_data(value)

    def handle_data(self, data):
        if self.cdata_elem == "style" or self.cdata_elem is None:
            self.found += re.findall(r"@import[^;]*|url\((?!['\"]?data:)[^)]*", data)


def external_resources(page):
    parser = Resources()
    parser.feed(page)
    return parser.found


@pytest.mark.parametrize(
    "resource",
    [
        '<img src="https://example.org/a.png">',
        "<img src='figures/a.png'>",
        '<link rel="stylesheet" href="//example.org/a.css">',
        '<script src="a.js"></script>',
        "<style>@import 'a.css';</style>",
        '<p style="background: url(a.png)">text</p>',
        '<object data="a.svg"></object>',
    ],
)
def test_a_resource_of_elsewhere_would_be_seen(resource):
    assert external_resources(f"<body>{resource}</body>")
    assert external_resources('<body><img src="data:image/png;base64,AA"><a href="#top">text</a></body>') == []


def test_report_is_self_contained_and_says_phantom(drawn):
    tables, out = drawn
    tables = {**tables, "claims": claims(tables, "acdc-seg", VERDICT)}
    page = render_report(tables, out, {"verdict": VERDICT.model_dump(), "note": "<b>bold"}, {"torch": "1"})
    assert "PHANTOM data" in page
    assert page.count("data:image/svg+xml;base64,") == len(FIGURES) - 1, "the verdicts are maps"
    assert "<b>bold" not in page, "parameters must be escaped"
    assert external_resources(page) == []
    for i in range(1, 9):
        assert f"<td>{i}</td>" in page


def test_report_of_other_networks_shows_their_figures_only(drawn, tmp_path):
    tables, _ = drawn
    own = {
        k: t[t["net"] == "pspnet"].replace({"net": {"pspnet": "mine"}}) if "net" in t else t for k, t in tables.items()
    }
    draw_figures(own, STYLE, tmp_path)
    page = render_report(
        {**own, "claims": claims(own, "acdc-seg", VERDICT)}, tmp_path, {"verdict": VERDICT.model_dump()}, {"torch": "1"}
    )
    assert page.count("data:image/svg+xml;base64,") == 4
    for title in ("one parameter of one layer, mine", "between target and sources, mine"):
        assert title in page
