"""The page of an advice in a real browser, of a sweep and of a search: readable, sortable, with what to do next."""

from __future__ import annotations

import json
import shlex

import numpy as np
import pandas as pd
import pytest
from browser import CHROMIUM, CONTRAST, shown

from prrmse.cli.main import command_line
from prrmse.figures.tool import learning_curves
from prrmse.report.advice import next_steps, write_advice

in_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here")
SOURCES = {"near": "pretrained/near.pth", "far": "pretrained/far away.pth"}
DATA = ["--data", "Dataset001", "--spacing", "2"]
SWEEP = ["advise", "target.safetensors", *SOURCES.values(), *DATA, "--out", "advice.json"]
SEARCH = ["advise", *SOURCES.values(), "--network", "unet", "--arguments", '{"width": 4}', *DATA, "--budget", "10m"]


def of_sweep():
    ranking = [
        {
            **{"source": name, "reusable_pairs": 0.8 - i / 2, "reusable_scalars": 0.7 - i / 2, "joint_change": -i / 9},
            **{"joint_low": -0.3, "joint_high": 0.0, "n_cases": 12, "rmse_relative": 0.1 + i, "missing": i},
            **{"logme": -0.5 - i, "h_score": 0.1},
        }
        for i, name in enumerate(SOURCES)
    ]
    verdicts = [
        {
            **{"source": name, "kind": kind, "layer": layer, "module": f"inc.{layer}", "tensor": f"inc.{layer}.{kind}"},
            **{"scalars": 9, "final": False, "effect": layer < 6, "drop": layer / 20, "drop_low": 0.0},
            **{"drop_high": 0.4, "reusable": layer < 3},
        }
        for name in SOURCES
        for kind in ("W", "RM")
        for layer in range(1, 7)
    ]
    return {
        "sentence": "Best fit: near.",
        "baseline": 0.8,
        "tolerance": 0.05,
        "sources": SOURCES,
        "entries": [],
        "ranking": ranking,
        "verdicts": verdicts,
    }


def of_search(answer="transfer", folds=3):
    rows = [("near", "half", 0.8, 0.1), ("scratch", "", 0.7, 0.0), ("far", "finetune", 0.65, -0.05)]
    interval = {"gain_low": None, "gain_high": None}
    ranking = [
        {
            **{"source": source, "plan": plan, "round": 1, "dice": dice, "gain": gain, **interval},
            **{"n_folds": folds, "n_patients": 10, "steps": 40},
        }
        for source, plan, dice, gain in rows
    ]
    found = {"answer": answer, "sentence": "Start from near.", "seconds": 61.7, "sources": SOURCES, "verdicts": []}
    return {**found, "entries": [], "over": "scratch", "ranking": ranking}


def curves():
    rng = np.random.default_rng(0)
    rows = [
        (source, plan, steps, fold, rng.random())
        for source, plan in (("scratch", ""), ("near", "half"), ("far", "finetune"))
        for steps in (20, 40)
        for fold in range(3)
    ]
    return pd.DataFrame(rows, columns=["source", "plan", "steps", "fold", "dice"])


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of each kind."""
    out = tmp_path_factory.mktemp("advice")
    advices = {"sweep": (of_sweep(), SWEEP, None), "search": (of_search(), SEARCH, curves())}
    for name, (advice, command, found) in advices.items():
        draw = None if found is None else lambda path, found=found: learning_curves(found, ("scratch",), path)
        # As it is read from its file.
        write_advice(out / f"{name}.html", json.loads(json.dumps(advice)), options(command), draw)
    return out


def options(command):
    return vars(command_line().parse_args(command))


@in_browser
@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1200, "light")])
@pytest.mark.parametrize("name", ["sweep", "search"])
def test_everything_can_be_read_on_a_telephone_and_a_screen_by_day_and_by_night(pages, name, width, scheme):
    with shown(pages / f"{name}.html", width, scheme) as page:
        page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
        contrast = page.evaluate(CONTRAST)
        assert len(contrast) > 30
        assert {text: ratio for text, ratio in contrast.items() if ratio < 4.5} == {}
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page moves sideways"
        images = page.evaluate("[...document.images].map(i => [i.alt.length, i.naturalWidth, i.src.slice(0, 18)])")
        assert len(images) == (name == "search")
        assert all(alt > 50 and wide > 300 and src == "data:image/svg+xml" for alt, wide, src in images)
        text = page.evaluate("document.body.innerText")
        assert not any(word in text for word in ("nan", "None", "undefined", "reusable_", "n_folds"))
        found = page.evaluate("document.querySelector('h1 + .found').getBoundingClientRect().bottom")
        assert found < 844, "below the first screen"
        assert page.complaints == []


@in_browser
def test_the_ranking_sorts_and_a_cell_tells_its_layer(pages):
    with shown(pages / "sweep.html") as page:
        names = "[...document.querySelectorAll('#ranking tbody td:first-child')].map(cell => cell.textContent)"
        assert page.evaluate(names) == ["near", "far"]
        page.click("#ranking th:nth-child(2) button")
        assert page.evaluate(names) == ["far", "near"]
        assert page.evaluate("document.querySelectorAll('.map').length") == 2
        assert page.evaluate("document.querySelectorAll('.map tr:first-of-type td').length") == 2 * 5, "with an effect"
        page.click(".map tr:first-of-type td:nth-of-type(2)")
        told = page.evaluate("document.querySelector('output').value")
        assert told == "W 2, inc.2: drop 0.100 (0.000 to 0.400), reusable"


@pytest.mark.parametrize(
    ("advice", "command", "expected"),
    [
        (of_sweep(), SWEEP, ["advise", "warmstart", "train"]),
        (of_search(), SEARCH, ["warmstart", "train"]),
        (of_search("do not transfer"), SEARCH, ["train"]),
        (of_search("undecided", folds=1), SEARCH, ["train"]),
    ],
)
def test_what_to_do_next_can_be_done(advice, command, expected, tmp_path):
    asked = options(command)
    steps = [shlex.split(step.command) for step in next_steps(advice, asked) if step.command]
    assert [program for program, *_ in steps] == ["prrmse"] * len(expected)
    parsed = [command_line().parse_args(arguments) for _, *arguments in steps]
    assert [step.command for step in parsed] == expected
    assert {step.data for step in parsed if step.command != "warmstart"} == {"Dataset001"}
    assert {step.spacing for step in parsed if step.command != "warmstart"} == {2.0}
    assert {step.network for step in parsed} == {asked["network"] or "NETWORK"}
    assert all(step.start == "warm.safetensors" for step in parsed if "warmstart" in expected and "start" in step)


def test_a_start_of_the_networks_own_and_steps_that_freeze_are_handed_on():
    advice = {**of_search(), "freeze_steps": 5}
    commands = [shlex.split(x.command) for x in next_steps(advice, options([*SEARCH, "--pretrained", "imagenet"]))]
    warmstart, train = (command_line().parse_args(arguments) for _, *arguments in commands)
    assert (warmstart.pretrained, train.pretrained, train.freeze_steps) == ("imagenet", None, 5)


def test_what_was_asked_is_handed_on():
    more = ["--seed", "3", "--batch", "4", "--augment", "--samples", "5", "--trust", "--case-pattern", "(?P<patient>x)"]
    commands = [shlex.split(x.command) for x in next_steps(of_search(), options([*SEARCH, *more]))]
    warmstart, train = (command_line().parse_args(arguments) for _, *arguments in commands)
    assert (warmstart.seed, warmstart.trust) == (3, True)
    assert (train.seed, train.batch, train.augment, train.samples, train.trust) == (3, 4, True, 5, True)
    assert train.case_pattern == "(?P<patient>x)"


def test_plans_of_nnunet_are_handed_on_in_the_place_of_what_they_say():
    asked = options(["advise", "a.pth", "--nnunet-plans", "Dataset001", "--configuration", "2d", "--budget", "10m"])
    asked |= {"network": "nnunetv2.x:y", "arguments": '{"a": 1}', "trust": True, "data": "raw", "batch": 2}  # by them
    commands = [shlex.split(x.command) for x in next_steps(of_search(), asked)]
    for step in (command_line().parse_args(arguments) for _, *arguments in commands):
        assert (step.nnunet_plans, step.configuration, step.network, step.trust) == ("Dataset001", "2d", None, False)
    _, train = next_steps(of_search(), {**asked, "case_pattern": "(?P<patient>x)"})
    assert command_line().parse_args(shlex.split(train.command)[1:]).case_pattern == "(?P<patient>x)"


def test_the_state_that_was_taken_of_a_checkpoint_is_handed_on():
    first = next_steps({**of_sweep(), "entries": ["student"]}, options([*SWEEP, "--network", "unet"]))[0]
    assert command_line().parse_args(shlex.split(first.command)[1:]).entry == ["student"]


@pytest.mark.parametrize("dice", [0.02, 0.1])  # the tolerance is 0.05
def test_an_untrained_target_is_to_be_trained_first(dice):
    (step,) = next_steps({**of_sweep(), "baseline": dice}, options([*SWEEP, "--network", "unet"]))
    assert step.text.startswith("Train the target")
    assert step.command.startswith("prrmse train --network unet")
