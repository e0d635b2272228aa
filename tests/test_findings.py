"""The page of evidence: planted tables give the planted answers, in text, HTML and figures."""

from html import unescape

import numpy as np
import pandas as pd
import pytest

from prrmse.figures.evidence import draw_controls, draw_factorial, draw_joint, draw_ranking, draw_screen
from prrmse.figures.style import Drawing
from prrmse.report.evidence import evidence_html, evidence_markdown, evidence_sections
from prrmse.settings import Figures, Verdict
from prrmse.tables.answer import FAILS, HOLDS, UNDECIDED
from prrmse.tables.findings import STATEMENTS, alone_means_together, findings
from prrmse.tables.joint import joint_effects
from prrmse.tables.ranking import SCORES

NETS = ("unet", "pspnet")
SOURCES = ("t1-seg", "t1-auto", "rvsc-seg")
SETTINGS = Verdict()
STYLE = Drawing(Figures(dpi=60))
PARAMS = {
    "verdict": {"tolerance": 0.05, "level": 0.95},
    "evidence": {"samples": 10},
    "transfer.target": "acdc-seg",
}


def planted(permuted, seed, network, initialisation, cumulative, fixed, layer, rank, gain, kinds=NETS):
    """All tables, each statement's quantity at a given value with a narrow interval."""

    def around(value):
        return {"low": value - 0.01, "high": value + 0.01}

    controls = [
        (n, c, d, d - 0.01, d + 0.01, 3, 10)
        for n in kinds
        for c, d in (("permuted", permuted), ("random", 0.5), ("seed", seed))
    ]
    joint_effects = []
    joint = []
    for net in kinds:
        for source in SOURCES:
            joint_effects.append((net, source, "together", cumulative, *around(cumulative).values(), 3))
            joint_effects.append((net, source, "recovered", fixed, *around(fixed).values(), 5))
            joint.append((net, source, "reestimated", 0, 0.01))
            for number in range(1, 6):
                joint.append((net, source, "alone", number, 0.3))
                joint.append((net, source, "reestimated", number, 0.31 - fixed))
                joint.append((net, source, "joint", number, 0.02 * number))
                joint.append((net, source, "cumulative", number, cumulative * number / 5))
    effects = []
    for name, value in (("network: pspnet - unet", network), ("initialisation: shared - independent", initialisation)):
        effects += [(name, m, value, *around(value).values(), 3, 10) for m in ("reuse", "drop")]
    layers = [(n, m, v, v - 0.05, v + 0.05, 28) for n in kinds for m, v in (("rmse", layer), ("drop_random", 0.6))]
    ranking, gains = [], []
    for net in kinds:
        for arm in ("finetune", "probe"):
            for score in SCORES:
                tau = {"rmse": rank, "logme": abs(rank), "leep": np.nan}.get(score, 0.0)
                above = {1: 0.001, -1: 0.999}.get(int(np.sign(np.nan_to_num(round(tau, 1)))), 0.5)
                p = (np.nan,) * 3 if np.isnan(tau) else (above, 1 - above, above)
                ranking.append((net, arm, score, tau, tau - 0.3, tau + 0.3, *p, 0.0, 6, 6))
            for source in ("none", *SOURCES):
                if (source, arm) != ("none", "finetune"):
                    gains.append((net, arm, source, 0, gain, gain - 0.01, gain + 0.01, 0.01, 3, 10))
    cells = [
        (n, i, s, 0.3, 0.5, 0.4, 0.3, 0.5, 3, 10)
        for n in kinds
        for i in ("shared", "independent")
        for s in (*SOURCES, "all")
    ]
    relative = [
        (n, s, "W", k, False, 0.3, 0.5, 0.01, seed, 0.4, True, 2, 10) for n in kinds for s in SOURCES for k in range(3)
    ]
    return {
        "controls": pd.DataFrame(
            controls,
            columns=[
                "net",
                "control",
                "drop_kernels",
                "drop_kernels_low",
                "drop_kernels_high",
                "n_seeds",
                "n_patients",
            ],
        ),
        "joint_effects": pd.DataFrame(
            joint_effects, columns=["net", "source", "effect", "value", "low", "high", "n_layers"]
        ).assign(n_seeds=3, n_patients=10),
        "joint": pd.DataFrame(joint, columns=["net", "source", "variant", "layer", "drop"]).assign(
            target="acdc-seg", n_patients=10, n_seeds=2
        ),
        "screen": pd.DataFrame({"net": list(kinds), "kinds": "all", "predictor": "rmse", "auroc": 0.5, "n_sources": 3}),
        "effects": pd.DataFrame(
            effects, columns=["effect", "measure", "value", "low", "high", "n_seeds", "n_patients"]
        ),
        "layers": pd.DataFrame(layers, columns=["net", "measure", "rho", "rho_low", "rho_high", "n_kernels"]),
        "ranking": pd.DataFrame(
            ranking,
            columns=["net", "arm", "score", "tau", "tau_low", "tau_high", "p_above", "p_below", "p_any"]
            + ["regret", "n_sources", "n_models"],
        ),
        "gain": pd.DataFrame(
            gains,
            columns=["net", "arm", "source", "source_seed", "gain", "gain_low", "gain_high", "gain_sd"]
            + ["n_runs", "n_patients"],
        ),
        "factorial": pd.DataFrame(
            cells,
            columns=["net", "init", "source", "drop", "drop_random", "reuse", "reuse_low", "reuse_high"]
            + ["n_seeds", "n_patients"],
        ),
        "relative": pd.DataFrame(
            relative,
            columns=["net", "source", "kind", "layer", "final", "drop", "drop_random", "drop_noise", "drop_seed"]
            + ["reuse", "equivalent", "n_seeds", "n_patients"],
        ),
        "seconds": pd.DataFrame({"net": ["unet"], "work": ["finetune"], "seconds": [3.0], "share": [1.0], "n": [6]}),
    }


AS_PAPER = {
    "permuted": 0.0,
    "seed": 0.0,
    "network": 0.3,
    "initialisation": 0.3,
    "cumulative": 0.01,
    "fixed": 0.1,
    "layer": 0.8,
}
AS_PAPER |= {"rank": 0.9, "gain": 0.1}
OPPOSITE = {
    "permuted": 0.4,
    "seed": 0.2,
    "network": -0.3,
    "initialisation": -0.3,
    "cumulative": 0.6,
    "fixed": -0.1,
    "layer": -0.2,
}
OPPOSITE |= {"rank": -0.9, "gain": -0.1}


def test_planted_truth_is_found():
    found = findings(planted(**AS_PAPER), SETTINGS)
    assert found["answer"].tolist() == [HOLDS] * len(STATEMENTS)


def test_the_opposite_is_found_too():
    answers = findings(planted(**OPPOSITE), SETTINGS)["answer"].tolist()
    assert answers[:-1] == [FAILS] * (len(STATEMENTS) - 1)
    assert answers[-1] == HOLDS, "another score than RMSE ranks them"


def test_nothing_significant_is_undecided_and_no_evidence_is_no_answer():
    """The statement is not answered where an interval holds both, or is missing, however small the value."""
    tables = planted(
        **{**AS_PAPER, "network": 0.0, "initialisation": 0.0, "rank": 0.0, "gain": 0.005, "layer": 0.28, "fixed": 0}
    )
    tables["controls"] = tables["controls"].assign(drop_kernels_low=0.04, drop_kernels_high=0.06)
    tables["joint_effects"] = tables["joint_effects"].assign(low=-0.5, high=0.5)
    assert findings(tables, SETTINGS)["answer"].tolist()[:-1] == [UNDECIDED] * 6 + [HOLDS, UNDECIDED, UNDECIDED]
    tables["layers"] = tables["layers"].assign(rho_low=-0.1, rho_high=0.5)
    assert findings(tables, SETTINGS)["answer"].tolist()[6] == UNDECIDED


def test_small_runs_are_undecided():
    tables = planted(**AS_PAPER, kinds=("unet",))
    tables["controls"] = tables["controls"][tables["controls"]["control"] != "seed"]
    tables["controls"] = tables["controls"].assign(drop_kernels_low=np.nan, drop_kernels_high=np.nan)
    tables["effects"] = tables["effects"].iloc[:0]
    tables["joint_effects"] = tables["joint_effects"].assign(value=np.nan, low=np.nan, high=np.nan)
    tables["layers"] = tables["layers"].assign(rho_low=np.nan, rho_high=np.nan)
    tables["gain"] = tables["gain"].assign(gain_low=np.nan, gain_high=np.nan)
    tables["ranking"] = tables["ranking"].assign(p_above=np.nan, p_below=np.nan, p_any=np.nan)
    found = findings(tables, SETTINGS)
    assert found["answer"].tolist() == [UNDECIDED] * len(STATEMENTS)
    assert found["statistic"].str.len().min() > 10


def sweeps(variants, seeds=3):
    """Rows of sweeps with these drops by variant and layer, a little noise, two networks."""
    rng, rows = np.random.default_rng(0), []
    for net in NETS:
        for variant, drops in variants.items():
            for layer, drop in drops.items():
                for seed in range(seeds):
                    noise = 0.001 * rng.standard_normal(6)
                    rows += [(net, variant, layer, seed, f"p{p}", 0.9 - drop + e) for p, e in enumerate(noise)]
    columns = ["net", "variant", "layer", "seed", "patient", "dice"]
    return pd.DataFrame(rows, columns=columns).assign(baseline=0.9, target="t-seg", source="a-seg")


def test_only_layers_that_are_harmless_alone_are_asked_together():
    alone = {1: 0.2, 2: 0.4, 3: 0.3, 4: 0.1}
    variants = {
        "alone": alone,
        "joint": {1: 0.0, 2: 0.01, 3: 0.3, 4: 0.0},
        "cumulative": {1: 0.0, 2: 0.03, 3: 0.6, 4: 0.8},
        "reestimated": {0: 0.02, **{layer: 0.5 * drop + 0.02 for layer, drop in alone.items()}},
    }
    found = joint_effects(sweeps(variants), SETTINGS).set_index(["net", "effect"])
    assert found.loc[("unet", "together"), "value"] == pytest.approx(0.03, abs=0.002), "the third is not harmless alone"
    assert found.loc[("unet", "together"), "n_layers"] == 2
    assert found.loc[("unet", "recovered"), "value"] == pytest.approx(0.125, abs=0.002)
    assert ((found["low"] < found["value"]) & (found["value"] < found["high"])).all()
    assert alone_means_together({"joint_effects": found.reset_index()}, SETTINGS).answer == HOLDS
    variants["joint"][1] = 0.2
    none = joint_effects(sweeps(variants), SETTINGS)
    assert alone_means_together({"joint_effects": none}, SETTINGS).answer == UNDECIDED
    one = joint_effects(sweeps(variants, seeds=1), SETTINGS)
    assert one["low"].isna().all(), "one seed gives no interval"


@pytest.fixture
def page(tmp_path):
    tables = planted(**OPPOSITE)
    tables["findings"] = findings(tables, SETTINGS)
    swaps = pd.DataFrame(
        [
            (n, s, k, 0, p, 0.5, 0.9)
            for n in NETS
            for s in (*SOURCES, "self", "random", "noise-t1-seg")
            for k in range(4)
            for p in "ab"
        ],
        columns=["net", "source", "layer", "seed", "patient", "dice", "baseline"],
    ).assign(target="acdc-seg", kind="W", final=False)
    real = swaps["source"].isin(SOURCES)

    pairs = pd.DataFrame(
        {"net": NETS[0], "kind": [*"WB"] * 5, "final": False, "rmse": 0.1, "n_seeds": 1, "n_patients": 2}
    )
    pairs["first_order"] = pairs["drop"] = np.linspace(0.0, 0.3, 10)

    def draw(out):
        draw_controls(swaps[~real], swaps[real], STYLE, out)
        draw_joint(tables["joint"], STYLE, out)
        draw_screen(pairs, STYLE, out)
        draw_factorial(tables["factorial"], STYLE, out)
        draw_ranking(tables["ranking"], tables["gain"], STYLE, out)

    draw(tmp_path)
    return tables, tmp_path, draw


def test_the_page_says_everything_once_and_needs_nothing_else(page):
    tables, folder, draw = page
    sections = evidence_sections(tables, PARAMS)
    html = evidence_html(sections, ["phantom"], folder)
    text = evidence_markdown(sections, ["phantom"])
    assert "PHANTOM data" in html
    assert html.count("data:image/png;base64,") == 5
    assert "http" not in html
    for title in (section.title for section in sections):
        assert unescape(html).count(f"<h2>{title}</h2>") == 1
        assert text.count(f"## {title}\n") == 1
    assert html.count('class="fails"') == len(STATEMENTS) - 1
    for name in ("controls", "joint", "screen", "factorial", "ranking"):
        assert f"({name}.png)" in text
        assert (folder / f"{name}.svg").stat().st_size > 2000
    draw(folder / "again")
    for path in folder.glob("*.svg"):
        assert path.read_bytes() == (folder / "again" / path.name).read_bytes(), path.name
    assert all(label in text for _, label in SCORES.values())
