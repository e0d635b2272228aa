"""The search for the best start, with real trainings: a planted truth, a resumed search, one that is interrupted."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ARGUMENTS, SELDOM
from safetensors.torch import load_file
from torch import nn

from prrmse import search as module
from prrmse.api import train, warmstart
from prrmse.errors import InputError
from prrmse.experiments.halving import TRANSFER, Candidate
from prrmse.learning.plans import check_plan, fixed_by
from prrmse.names import BLOCKS, SCRATCH
from prrmse.nets.build import seeded_network
from prrmse.nets.layers import inventory
from prrmse.search import search, sentence
from prrmse.settings import Training

SETTINGS = Training(steps=6, batch_size=4, learning_rate=0.003)


@pytest.fixture(scope="module")
def sources(slices):
    """One that was trained on such slices for long, and one that was never trained."""
    longer = SETTINGS.model_copy(update={"steps": 80})
    trained = train("unet", slices, arguments=ARGUMENTS["unet"], settings=longer, compute=SELDOM, seed=7)
    untrained = seeded_network("unet", ARGUMENTS["unet"], "another")
    return {"trained": trained.network.state_dict(), "untrained": untrained.state_dict()}


@pytest.fixture
def run(slices, sources):
    def run(folder=None, budget=1e6, named=None, cohort=slices, **options):
        return search(
            "unet",
            cohort,
            sources if named is None else named,
            budget,
            arguments=ARGUMENTS["unet"],
            everyone=True,
            **{"folds": 3, "rounds": 2, **options},
            settings=SETTINGS,
            compute=SELDOM,
            folder=folder,
        )

    return run


def test_the_planted_source_is_found_and_its_plan_can_be_trained(run, sources, tmp_path):
    found = run(tmp_path)
    first = found.ranking.iloc[0]
    assert first["source"] == "trained"
    assert first["gain_low"] > 0
    assert found.answer == "transfer"
    assert sentence(found).startswith("Start from trained and ")
    assert found.best == Candidate(first["source"], first["plan"])
    kernel = "inc.0.weight"
    assert torch.equal(found.start.state[kernel], sources["trained"][kernel])
    assert not any(layer.final for layer in found.start.reused)
    dropped = found.ranking[found.ranking["source"] == "untrained"]
    assert set(dropped["round"]) == {0}
    assert (found.curves.groupby(["source", "plan", "round"])["patient"].nunique() == 4).all()


def test_what_a_plan_keeps_fixed_is_kept_and_nothing_else(run, tmp_path, monkeypatch):
    seen = {}
    original = module.training_run

    def watched(network, *arguments, frozen, title, **options):
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        table = original(network, *arguments, frozen=frozen, title=title, **options)
        changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
        seen[title.split(",")[0]] = ({layer.tensor for layer in frozen}, changed, set(before))
        return table

    monkeypatch.setattr(module, "training_run", watched)
    run(plans=("finetune", "half", "head"), folds=2, rounds=1)
    sizes = {}
    for plan in ("finetune", "half", "head"):
        frozen, changed, every = seen[f"trained {plan}"]
        assert not frozen & changed
        sizes[plan] = len(frozen)
        assert any(name not in frozen for name in changed), every
    assert sizes["finetune"] == 0 < sizes["half"] < sizes["head"]


def test_plans_keep_fixed_what_they_say(sources):
    """Where each plan's kernels lie, among those that are reused."""
    network = seeded_network("unet", ARGUMENTS["unet"], "unet")
    body = [layer for layer in inventory(network) if not layer.final]
    kernels = [layer.layer for layer in body if layer.kind == "W"]

    def fixed(plan):
        found = fixed_by(plan, network, body)
        return {layer.layer for layer in found if layer.kind == "W"}, {layer.kind for layer in found}

    assert fixed("finetune") == (set(), set())
    assert fixed("head")[0] == fixed("probe")[0] == set(kernels)
    assert fixed("first3")[0] == set(kernels[:3])
    assert fixed("first3")[1] >= {"W", "RM", "RV", "RW", "RB"}
    assert fixed("first1000")[0] == set(kernels)
    assert fixed("half")[0] == set(kernels[: len(kernels) // 2])
    left = [set(kernels) - fixed(block)[0] for block in BLOCKS]
    assert set.union(*left) == set(kernels)
    assert sum(map(len, left)) == len(kernels)
    for plan in ("first0", "first", "last"):
        with pytest.raises(InputError, match=f"there is no plan {plan}"):
            check_plan(plan)


def test_a_probe_trains_the_head_alone_in_its_first_round_only(run, monkeypatch):
    seen, original = {}, module.training_run

    def watched(*arguments, frozen, title, **options):
        if "probe" in title:
            seen.setdefault(title.rpartition(" ")[2], []).append(len(frozen))
        return original(*arguments, frozen=frozen, title=title, **options)

    monkeypatch.setattr(module, "training_run", watched)
    found = run(plans=["probe"])
    assert set(seen["2"]) == {0}
    assert min(seen["1"]) > 10
    assert set(found.ranking["source"]) == {SCRATCH, "trained"}, "no probe of the other was trained to its end"
    assert found.first == 3
    how = "train the final convolution alone for the first 3 steps, then all of it"
    assert how in sentence(found._replace(answer=TRANSFER))
    with pytest.raises(InputError, match="needs two rounds"):
        run(plans=["probe"], rounds=1)


def test_what_a_budget_leaves_of_a_probe_is_no_probe(run, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))  # a second each training
    with pytest.raises(InputError, match="or for two rounds, which probe needs"):
        run(plans=["probe"], budget=9.5)


def test_pretrained_weights_are_what_a_gain_is_over_and_what_a_source_lacks(run, sources, slices):
    part = {name: tensor for name, tensor in sources["trained"].items() if name.startswith("inc.")}
    found = run(named={"part": part}, pretrained=sources["untrained"], plans=["finetune"])
    assert set(found.ranking["source"]) == {"pretrained", SCRATCH, "part"}
    assert found.ranking.set_index("source")["gain"]["pretrained"] == 0
    assert "over the network's own pretrained weights" in sentence(found)
    assert found.best.source in ("part", "pretrained")
    own = next(name for name in sources["untrained"] if name.endswith("weight") and not name.startswith("inc."))
    assert torch.equal(found.start.state[own], sources["untrained"][own])
    with pytest.raises(InputError, match="is called pretrained"):
        run(named={"pretrained": part})


def test_a_verdicts_list_is_a_candidate(run, sources, tmp_path, monkeypatch):
    seen, original, plans = {}, module.training_run, {"plans": ["finetune"]}

    def watched(network, *arguments, title, **options):
        seen.setdefault(title, {name: tensor.clone() for name, tensor in network.state_dict().items()})
        return original(network, *arguments, title=title, **options)

    monkeypatch.setattr(module, "training_run", watched)
    listed = ["inc.0.weight", "inc.1.weight"]
    found = run(tmp_path, lists={"trained": listed}, **plans)
    assert ("trained", "verdict") in set(zip(found.ranking["source"], found.ranking["plan"], strict=True))
    own, begun = (seen[f"{name}, fold 1, round 1"] for name in ("scratch", "trained verdict"))
    assert {name for name in own if not torch.equal(own[name], begun[name])} == set(listed)
    assert all(torch.equal(begun[name], sources["trained"][name]) for name in listed)
    with pytest.raises(InputError, match="holds the trainings of another search"):
        run(tmp_path, lists={"trained": listed[:1]}, **plans)
    for lists in ({"trained": ["none.weight"]}, {"other": ["inc.0.weight"]}):
        with pytest.raises(InputError, match="names no pair of it that fits"):
            run(lists=lists)


def test_patients_without_a_structure_are_trained_on_and_not_measured(slices, run, monkeypatch):
    trained, original, healthy = set(), module.training_run, slices.patients()[0]

    def watched(network, drawn, *arguments, **options):
        trained.update(drawn.patients())
        return original(network, drawn, *arguments, **options)

    label = np.where((slices.index["patient"] == healthy).to_numpy()[:, None, None], 0, slices.label)
    monkeypatch.setattr(module, "training_run", watched)
    found = run(cohort=replace(slices, label=label), plans=["finetune"], rounds=1)
    assert set(found.curves["patient"]) == set(slices.patients()[1:])
    assert healthy in trained
    with pytest.raises(InputError, match="two training patients with a labelled structure"):
        run(cohort=replace(slices, label=np.zeros_like(slices.label)))


class Wrapped(nn.Module):
    """All names begin with what wrappers are told by; a PReLU, and a kernel that has two names."""

    def __init__(self):
        super().__init__()
        first, last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.module = nn.ModuleDict({"first": first, "slope": nn.PReLU(4), "last": last, "again": first})

    def forward(self, x):
        return self.module["last"](self.module["slope"](self.module["first"](x)))


def test_what_is_searched_is_what_a_warm_start_is_made_of(tmp_path, caplog):
    network, source = seeded_network("test_search:Wrapped", {}, "a", trust=True), Wrapped()
    nn.init.constant_(source.module["slope"].weight, 0.7)
    starts = module._starts(
        network, {"s": source.state_dict()}, ["finetune", "head"], None, {"s": ["module.first.weight"]}
    )
    assert "4 parameters of the network are of no kind (module.slope.weight" in caplog.text
    assert len(starts) == 4
    for candidate, start in starts.items():
        if candidate.source == SCRATCH:
            continue
        warmstart(network, source.state_dict(), start.reused, tmp_path / "warm.safetensors")
        warm = load_file(tmp_path / "warm.safetensors")
        assert all(torch.equal(start.state[name], warm[name]) for name in network.state_dict()), candidate
    by_last_name = {name: tensor for name, tensor in source.state_dict().items() if ".first." not in name}
    (start,) = (
        start for of, start in module._starts(network, {"s": by_last_name}, ["finetune"], None, {}).items() if of.plan
    )
    assert torch.equal(start.state["module.first.weight"], source.module["first"].weight)


def test_names_of_a_wrapper_and_code_that_was_edited(slices, tmp_path, monkeypatch):
    def run():
        how = {"plans": ["finetune"], "folds": 2, "rounds": 2, "everyone": True, "folder": tmp_path, "trust": True}
        source = {"s": Wrapped().state_dict()}
        return search("test_search:Wrapped", slices, source, 1e6, settings=SETTINGS, compute=SELDOM, **how)

    torch.manual_seed(0)
    assert run().ranking["round"].max() == 1
    torch.manual_seed(0)
    monkeypatch.setattr(module, "code_of", lambda network: "other")
    with pytest.raises(InputError, match="holds the trainings of another search"):
        run()


def test_the_same_search_goes_on_and_another_is_refused(run, tmp_path, monkeypatch):
    calls, original, plans = [], module.training_run, ("finetune", "head")

    def interrupted(*arguments, **options):
        if len(calls) == 18:
            raise KeyboardInterrupt
        calls.append(options["title"])
        return original(*arguments, **options)

    monkeypatch.setattr(module, "training_run", interrupted)
    first = run(tmp_path, plans=plans)
    assert set(first.curves["round"]) == {0}, "the round that was not complete is left out"
    monkeypatch.setattr(module, "training_run", lambda *a, **o: calls.append(o["title"]) or original(*a, **o))
    again = run(tmp_path, plans=plans)
    assert len(calls) == len(set(calls)), "a training was done twice"
    undisturbed = run(plans=plans)
    assert again.curves.equals(undisturbed.curves)
    assert again.answer == undisturbed.answer
    with pytest.raises(InputError, match="holds the trainings of another search"):
        run(tmp_path, plans=plans, seed=1)


def test_the_budget_is_kept_and_one_that_is_too_small_is_said(run, monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(ticks)))  # a second each training
    with pytest.raises(InputError, match="does not suffice for one fold"):
        run(budget=0.001)
    everything = run(plans=("head",))
    part = run(plans=("head",), budget=0.6 * everything.seconds)
    assert part.seconds <= 0.8 * everything.seconds
    assert set(part.curves["source"]) == {SCRATCH, "trained", "untrained"}


def test_ctrl_c_before_any_answer_is_ctrl_c(run, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "training_run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run()


def test_no_source_is_called_as_training_without_one(run, sources):
    with pytest.raises(InputError, match="called scratch"):
        run(named={"scratch": sources["trained"]})


def test_a_source_that_does_not_fit_is_named(run):
    with pytest.raises(InputError, match="odd: nothing in it fits the network"):
        run(named={"odd": {"weight": torch.zeros(3)}})
