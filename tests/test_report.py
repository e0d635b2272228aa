"""The page of a run in a real browser: nothing goes wrong, tables and maps answer, everything can be read."""

from __future__ import annotations

import base64
import io

import pandas as pd
import pytest
from browser import CHROMIUM, CONTRAST, shown
from tables import VERDICT, fabricate

from prrmse.figures.titles import FIGURES
from prrmse.report.page import render_report
from prrmse.tables.claims import claims

BOTTOM = "e => e.getBoundingClientRect().bottom"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    tables = fabricate(drop_of=lambda kind, layer, net: 0.02 * layer if kind == "W" else 0.0, seeds=(0,))
    for name in FIGURES:
        (out / f"{name}.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="700" height="300"/>')
    for net in ("unet", "pspnet"):
        (out / f"examples_{net}.svg").write_text((out / "fig03.svg").read_text())
    tables["claims"] = claims(tables, "acdc-seg", VERDICT)
    page = render_report(tables, out, {"verdict": VERDICT.model_dump()}, {"torch": "1"})
    (out / "report.html").write_text(page)
    return out / "report.html"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_everything_can_be_read_on_a_telephone_and_a_screen_by_day_and_by_night(report, width, scheme):
    with shown(report, width, scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        contrast = page.evaluate(CONTRAST)
        assert len(contrast) > 100
        assert page.evaluate("document.images.length") == len(FIGURES) - 1 + 2
        assert {text: ratio for text, ratio in contrast.items() if ratio < 4.5} == {}
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page moves sideways"
        assert page.evaluate("[...document.images].filter(i => !i.alt || i.alt.length < 20 || !i.naturalWidth)") == []
        sizes = page.evaluate("[...document.querySelectorAll('p, td, th')].map(e => getComputedStyle(e).fontSize)")
        assert min(float(size.removesuffix("px")) for size in sizes) >= 13
        assert page.complaints == []


def column(page, table, number):
    cells = f"document.querySelectorAll('#{table} tbody tr:not([hidden]) td:nth-child({number})')"
    return page.evaluate(f"[...{cells}].map(cell => cell.textContent)")


def test_tables_sort_by_number_and_by_text_and_filter_by_words(report):
    with shown(report) as page:
        page.click("summary")
        before = column(page, "verdict", 9)
        page.click("#verdict th:nth-child(9) button")
        up = [float(drop) for drop in column(page, "verdict", 9)]
        assert up == sorted(map(float, before)) != list(map(float, before))
        page.click("#verdict th:nth-child(9) button")
        assert [float(drop) for drop in column(page, "verdict", 9)] == up[::-1]
        assert page.evaluate("document.querySelector('#verdict th:nth-child(9)').ariaSort") == "descending"
        page.click("#verdict th:nth-child(3) button")
        sources = column(page, "verdict", 3)
        assert sources == sorted(sources)
        page.click("[data-table=verdict]")
        page.type("pspnet t1-seg rv")
        assert set(zip(*(column(page, "verdict", i) for i in (1, 3, 4)), strict=True)) == {("pspnet", "t1-seg", "RV")}
        assert len(column(page, "verdict", 1)) == 23
        assert page.complaints == []


def test_a_cell_of_a_map_tells_its_layer_and_values(report):
    with shown(report, 390) as page:
        cell = ".map tr:first-of-type td:nth-of-type(2)"
        page.click(cell)
        told = page.evaluate("document.querySelector('output').value")
        assert told.startswith("W 2, inc.3: drop 0.04")
        assert told.endswith("reusable")
        page.click(f"{cell[:-2]}5)")
        assert page.evaluate("document.querySelector('output').value").startswith("W 5, ")
        assert not page.evaluate("document.querySelector('output').value").endswith("reusable")


def test_no_row_of_maps_mixes_networks(report):
    with shown(report) as page:
        rows = page.evaluate(
            "[...document.querySelectorAll('.maps')]"
            ".map(grid => [...grid.querySelectorAll('caption')].map(caption => caption.textContent))"
        )
    assert [{title.partition(",")[0] for title in titles} for titles in rows] == [{"UNet"}, {"PSPNet"}]
    assert [len(titles) for titles in rows] == [3, 3]


def test_a_table_can_be_taken_as_a_file(report):
    with shown(report) as page:
        kind, _, content = page.evaluate("document.querySelector('[download=\"network.csv\"]').href").partition(",")
    assert kind == "data:text/csv;base64"
    assert (
        pd.read_csv(io.BytesIO(base64.b64decode(content)))["source"].tolist()
        == ["acdc-auto", "t1-seg", "t1-auto"] * 2 + ["all"] * 2
    )


def test_the_first_screen_says_what_was_found(report):
    with shown(report) as page:
        found = page.evaluate("[...document.querySelectorAll('.found')].map(p => p.textContent)")
        (bottom,) = page.evaluate(
            "[...document.querySelectorAll('.found')].slice(-1).map(BOTTOM)".replace("BOTTOM", BOTTOM)
        )
    assert len(found) == 3
    assert "of the pairs of kind and layer of UNet can each be taken alone" in found[0]
    assert "from scratch" in found[1]
    assert "claims" in found[2]
    assert bottom < 844, "below the first screen"
