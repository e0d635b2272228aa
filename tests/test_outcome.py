"""Claims, the paper's table, figures and report, from fabricated tables with a known truth."""

import hashlib
import re
from html.parser import HTMLParser

import pytest
from tables import VERDICT, fabricate

from prrmse.figures.draw import draw_figures
from prrmse.figures.titles import FIGURES
from prrmse.report.page import render_report
from prrmse.tables.answer import FAILS, HOLDS, UNDECIDED
from prrmse.tables.claims import claims
from prrmse.tables.paper import PAPER_ROWS, comparison, transfer_latex, transfer_markdown
from prrmse.tables.plan import PAPER_NOT_REUSED

STYLE = {"context": "paper", "palette": "colorblind", "dpi": 80, "target": "acdc-seg", **VERDICT}


def answers(**planted):
    table = claims(fabricate(**planted), "acdc-seg")
    assert table["claim"].tolist() == list(range(1, 9))
    assert set(table["provenance"]) == {"phantom"}
    return dict(zip(table["claim"], table["answer"], strict=True))


def as_the_paper_says(kind, layer):
    """Kernels fail as printed for PSPNet's numbering; RM falls off with depth; RW, RB, B harmless."""
    if kind == "W":
        return 0.4 if ("W", layer) in PAPER_NOT_REUSED["pspnet"] else 0.0
    return {"RM": 0.5 / layer, "RV": 0.1}.get(kind, 0.0)


def test_planted_truth_is_found():
    found = answers(drop_of=as_the_paper_says, gain_of=lambda s: -0.05 if s == "t1-seg" else 0.1)
    assert found[2] == found[4] == found[5] == found[7] == HOLDS
    assert found[1] == FAILS, "both networks were given the same drops"


def test_the_opposite_is_found_too():
    found = answers(
        drop_of=lambda kind, layer: {"RW": 0.3, "RB": 0.3, "RM": layer / 40, "B": 0.3}.get(kind, 0.0),
        gain_of=lambda s: 0.0 if s == "none" else 0.1,
    )
    assert found[2] == found[3] == found[4] == found[7] == FAILS


def test_small_runs_are_undecided_and_never_crash():
    tables = fabricate(nets=("unet",), seeds=(0,))
    tables["transfer"] = tables["transfer"].iloc[:0]
    found = dict(zip(*(claims(tables, "acdc-seg")[c] for c in ("claim", "answer")), strict=True))
    assert found[1] == found[5] == found[6] == found[7] == found[8] == UNDECIDED


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
    tables = {**tables, "claims": claims(tables, "acdc-seg")}
    page = render_report(tables, out, {"verdict": VERDICT, "note": "<script>"}, {"torch": "1"})
    assert "PHANTOM data" in page
    assert page.count("data:image/png;base64,") == len(FIGURES)
    assert "<script>" not in page, "parameters must be escaped"
    assert external_resources(page) == []
    for i in range(1, 9):
        assert f"<td>{i}</td>" in page


def test_report_of_other_networks_shows_their_figures_only(drawn, tmp_path):
    tables, _ = drawn
    own = {
        k: t[t["net"] == "pspnet"].replace({"net": {"pspnet": "mine"}}) if "net" in t else t for k, t in tables.items()
    }
    draw_figures(own, STYLE, tmp_path)
    page = render_report({**own, "claims": claims(own, "acdc-seg")}, tmp_path, {"verdict": VERDICT}, {"torch": "1"})
    assert page.count("data:image/png;base64,") == 4
    for title in ("one parameter of one layer, mine", "between target and sources, mine"):
        assert title in page
