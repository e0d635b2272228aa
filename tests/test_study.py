"""The study: lists of layers, paired trainings, and what its tables say of a planted truth."""

import copy
import dataclasses
import itertools

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ARGUMENTS, COMPUTE, SELDOM, initialise, killed_after
from scipy import stats
from tiny import ROOT, Folder

from prrmse.config.params import read_params
from prrmse.data.slices import save_slices
from prrmse.experiments import study
from prrmse.experiments.study import MEASURED, base_measured, random_list, study_run
from prrmse.learning import training_run
from prrmse.learning.plans import block_of
from prrmse.learning.target import FewPatients, Target
from prrmse.learning.train import train
from prrmse.names import BLOCKS, MARGIN, PRETRAINED, SCRATCH, STUDY_PLANS
from prrmse.nets.checkpoint import load_network, save_checkpoint
from prrmse.nets.layers import inventory
from prrmse.report.study import ALL_KINDS, BY_KIND, CONNECTED, RAW, kinds_of_targets, study_page
from prrmse.settings import Training, UNet, Verdict
from prrmse.tables.answer import FAILS, HOLDS, UNDECIDED
from prrmse.tables.regret import ALL, GAIN, ORDER, no_transfer, regrets, search_table
from prrmse.tables.store import read_table
from prrmse.tables.study import (
    ancestry_effects,
    contrasts,
    gains_table,
    guides_table,
    of_starts,
    ranking_over_targets,
    reuse_table,
    runs_table,
    score_table,
    study_answers,
)

SETTINGS = Training(steps=25, batch_size=4, learning_rate=0.003)
PAIRS = len(
    [
        layer
        for layer in inventory(initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0))
        if not layer.final
    ]
)


@pytest.fixture(scope="module")
def few(slices, tmp_path_factory):
    """A target with a test split, a source with other values, and the sweep that calls every second pair reusable."""
    folder = tmp_path_factory.mktemp("study")
    index = slices.index.assign(split=["train"] * 6 + ["val"] * 3 + ["test"] * 3)
    save_slices(type(slices)(slices.image, slices.label, index, slices.meta), folder / "squares.npz")
    source = train(
        initialise("unet", ARGUMENTS["unet"], "independent", "none", "b-seg", 7), slices.split("train"), "seg",
        Training(steps=40, batch_size=4, learning_rate=0.003), 1, SELDOM,
    )  # fmt: skip
    header = {"net": "unet", "model": "b-seg", "seed": 0, "arguments": {"width": 4}}
    save_checkpoint(source, folder / "b.safetensors", header)
    layers = inventory(source)
    rows = [{**layer._asdict(), "patient": "p", "dice": 1 - (i % 2), "baseline": 1.0} for i, layer in enumerate(layers)]
    sweep = pd.DataFrame(rows).assign(net="unet", target="squares-seg", source="b-seg", seed=0)

    def of(source):
        checkpoint = folder / "b.safetensors" if source == "b-seg" else None
        spec = UNet.model_validate({"arguments": ARGUMENTS["unet"]})
        return FewPatients(
            "unet", "squares-seg", 1, source, 0, folder / "squares.npz", checkpoint, spec, "shared", SELDOM
        )

    return of, sweep, folder


def run(few, tmp_path, source="b-seg", reused="all", mode="finetune"):
    of, sweep, _ = few
    return study_run(
        of(source), reused, mode, sweep=sweep, verdict=Verdict(), settings=SETTINGS, resume=tmp_path / "state"
    )  # fmt: skip


def test_a_run_is_measured_on_patients_that_no_choice_has_seen(few, tmp_path):
    found = run(few, tmp_path)
    by_split = found.groupby("split")["patient"].unique().map(list).to_dict()
    assert by_split == {"val": ["patient002"], "test": ["patient003"]}
    assert set(found["n_train"]) == {1}


def test_each_list_reuses_what_it_says(few, tmp_path):
    tables = {reused: run(few, tmp_path, reused=reused) for reused in ("none", "all", "verdict", "random0", "random1")}
    found = {reused: table.iloc[0] for reused, table in tables.items()}
    assert found["none"]["pairs_reused"] == 0
    assert found["all"]["pairs_reused"] == PAIRS
    assert 0 < found["verdict"]["pairs_reused"] < PAIRS
    scalars = found["verdict"]["scalars_reused"]
    for draw in ("random0", "random1"):
        assert 0.95 * scalars <= found[draw]["scalars_reused"] <= scalars
    dice = {name: tuple(tables[name]["dice"].fillna(-1)) for name in ("random0", "random1", "all")}
    assert len(set(dice.values())) == 3, "two draws are two lists"


def test_frozen_layers_keep_the_sources_values(few, tmp_path, monkeypatch):
    trained = trained_networks(monkeypatch)
    run(few, tmp_path, reused="all", mode="freeze")
    source = load_network(few[2] / "b.safetensors")[0].state_dict()
    same = {name for name, value in source.items() if torch.equal(value, trained[0][name])}
    layers = inventory(load_network(few[2] / "b.safetensors")[0])
    assert {layer.tensor for layer in layers if not layer.final} <= same
    assert not any(layer.tensor in same for layer in layers if layer.final)


def test_one_block_is_trained_and_the_others_keep_the_sources_values(few, tmp_path, monkeypatch):
    trained = trained_networks(monkeypatch)
    network = load_network(few[2] / "b.safetensors")[0]
    layers = [x for x in inventory(network) if not x.final]
    source = network.state_dict()
    place = list(source)
    blocks = [block_of(network, layers, number) for number in range(len(BLOCKS))]
    assert sorted(x for block in blocks for x in block) == sorted(layers)
    for early, late in itertools.pairwise(blocks):
        assert max(place.index(x.tensor) for x in early) < min(place.index(x.tensor) for x in late)
    for number, block in enumerate(blocks):
        run(few, tmp_path, mode=f"block{number}")
        moved = {x.tensor for x in layers if not torch.equal(source[x.tensor], trained[-1][x.tensor])}
        assert moved == {x.tensor for x in block}


def test_a_probe_trains_the_head_first_and_then_all(few, tmp_path, monkeypatch):
    trained, probed = trained_networks(monkeypatch), []
    real = training_run.train
    monkeypatch.setattr(
        training_run,
        "train",
        lambda network, *a, **k: probed.append(copy.deepcopy(real(network, *a, **k).state_dict())),
    )
    run(few, tmp_path, mode="probe")
    source = load_network(few[2] / "b.safetensors")[0].state_dict()
    layers = inventory(load_network(few[2] / "b.safetensors")[0])
    same = {x.tensor for x in layers if torch.equal(source[x.tensor], probed[0][x.tensor])}
    assert same == {x.tensor for x in layers if not x.final}
    assert not any(torch.equal(source[x.tensor], trained[-1][x.tensor]) for x in layers)


def test_rates_by_relative_gradients_move_every_tensor_and_the_largest_by_the_full_rate(few, tmp_path, monkeypatch):
    trained = trained_networks(monkeypatch)
    run(few, tmp_path, mode="rgn")
    run(few, tmp_path, mode="finetune")
    source = load_network(few[2] / "b.safetensors")[0].state_dict()
    layers = [x for x in inventory(load_network(few[2] / "b.safetensors")[0]) if not x.final and x.kind in ("W", "RW")]
    moved = [[float((state[x.tensor] - source[x.tensor]).abs().mean()) for x in layers] for state in trained]
    assert min(moved[0]) > 0
    assert sum(own < full for own, full in zip(*moved, strict=True)) > 0.8 * len(layers)


@pytest.mark.parametrize("mode", ["finetune", "probe", "block0", "rgn"])
def test_a_killed_run_goes_on_and_ends_like_a_clean_one(few, tmp_path, monkeypatch, mode):
    of, _, _ = few
    own = dataclasses.replace(of("b-seg"), compute=COMPUTE.model_copy(update={"resume_seconds": 0}))

    def again(name):
        return study_run(own, "all", mode, settings=SETTINGS, resume=tmp_path / name)

    clean = again("clean")
    killed_after(20, monkeypatch, lambda: again("killed"))
    assert (tmp_path / "killed").is_file()
    killed_after(2, monkeypatch, lambda: again("killed"))
    pd.testing.assert_frame_equal(again("killed"), clean)


def trained_networks(monkeypatch):
    """The states of the networks that the runs end with, one after the other."""
    found = []
    real = study.training_run
    monkeypatch.setattr(
        study,
        "training_run",
        lambda network, *a, **k: (real(network, *a, **k), found.append(copy.deepcopy(network.state_dict())))[0],
    )
    return found


def test_scratch_leaves_pretrained_weights_out(few, tmp_path):
    of, _, folder = few
    weights = {"arguments": ARGUMENTS["unet"], "pretrained": str(folder / "b.safetensors")}
    with_weights = lambda start: type(of(start))(**{**vars(of(start)), "spec": UNet.model_validate(weights)})  # noqa: E731
    arguments = {"sweep": None, "verdict": Verdict(), "settings": SETTINGS, "resume": tmp_path / "state"}
    start, other = (study_run(with_weights(name), "none", "finetune", **arguments) for name in (SCRATCH, PRETRAINED))
    plain = study_run(of(SCRATCH), "none", "finetune", **arguments)
    pd.testing.assert_frame_equal(start, plain)
    assert not np.array_equal(other["dice"], plain["dice"])


def test_a_base_model_is_measured_on_both_splits(few):
    of, _, folder = few
    own = Target.load(folder / "b.safetensors", folder / "squares.npz", of(SCRATCH).spec, COMPUTE)
    found = base_measured(own)
    assert list(found["split"].unique()) == list(MEASURED)
    plain = Target.on(own, own.slices.split("test")).own_counts(own.network)
    assert found[(found["split"] == "test") & (found["class"] == "RV")]["dice"].item() == pytest.approx(
        float(2 * plain.both[0, 1] / (plain.predicted[0, 1] + plain.true[0, 1])), nan_ok=True
    )


def test_a_random_list_has_as_many_scalars_though_one_pair_has_most_of_them():
    small = inventory(initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0))
    large = small[0]._replace(scalars=2 * sum(layer.scalars for layer in small[1:]))
    layers = [*small[1:], large]
    whole = sum(layer.scalars for layer in layers)
    for share in (0.2, 0.3, 0.7, 0.8, 0.9):
        drawn = [sum(layer.scalars for layer in random_list(layers, int(share * whole), i)) for i in range(20)]
        assert min(drawn) >= 0.95 * int(share * whole), share


def test_a_random_list_never_exceeds_and_differs_by_what_it_is_for():
    layers = inventory(initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0))
    whole = sum(layer.scalars for layer in layers)
    for scalars in (0, 1, 50, whole // 3, whole):
        assert sum(layer.scalars for layer in random_list(layers, scalars, "x")) <= scalars
    assert random_list(layers, whole, "x") == layers
    assert (
        random_list(layers, whole // 2, "x")
        == random_list(layers, whole // 2, "x")
        != random_list(layers, whole // 2, "y")
    )


# A study whose truth is planted: Dice of every arm, with noise by target, run and patient.
TARGETS = [f"t{i}-seg" for i in range(7)]
SOURCES = [f"s{i}-{task}" for i in range(4) for task in ("seg", "auto")]


def planted(gain_of_list=0.0, noise=0.01, seed=0):
    rng = np.random.default_rng(seed)
    # Any segmentation model is better than any auto-encoder, 0.11 against 0.03 in the mean.
    worth = {
        target: np.stack([rng.permutation(4) + 4, rng.permutation(4)], axis=1).ravel() * 0.02 for target in TARGETS
    }
    rows = []
    for target in TARGETS:
        level, neighbour = rng.normal(0.7, 0.05), SOURCES[0]
        of_source = dict(zip(SOURCES, worth[target], strict=True))
        arms = {(SCRATCH, "none", "finetune"): -0.2, (PRETRAINED, "none", "finetune"): 0.0}
        arms |= {(source, "all", "finetune"): worth for source, worth in of_source.items()}
        arms |= {(neighbour, reused, "finetune"): 0.0 for reused in ("random0", "random1")}
        arms |= {(neighbour, reused, "freeze"): -0.1 for reused in ("all", "random0", "random1")}
        arms |= {
            (neighbour, "all", "probe"): of_source[neighbour] + 0.03,
            (neighbour, "all", "block1"): of_source[neighbour] - 0.04,
        }
        arms |= {
            (neighbour, "verdict", "finetune"): gain_of_list,
            (neighbour, "verdict", "freeze"): -0.1 + gain_of_list,
        }
        for (source, reused, mode), effect in arms.items():
            for run_seed in (0, 1):
                own = level + effect + rng.normal(0, noise)
                rows += [
                    {"net": "n", "target": target, "source": source, "reused": reused, "mode": mode, "seed": run_seed,
                     "split": split, "patient": f"{target}{split}{p}", "class": "mean",
                     "dice": own + rng.normal(0, 0.01), "n_train": 10, "pairs_reused": 1, "scalars_reused": 1}
                    for split in MEASURED for p in range(6)
                ]  # fmt: skip
    scores = [
        {"net": "n", "target": target, "source": source, "score": score, "value": value}
        for target in TARGETS
        for i, source in enumerate(SOURCES)
        for score, value in (("logme", worth[target][i]), ("rmse", worth[target][i]), ("cka", rng.normal()))
    ]
    return runs_table(pd.DataFrame(rows)), pd.DataFrame(scores)


def test_contrasts_find_what_was_planted():
    runs, scores = planted(gain_of_list=0.05)
    found = contrasts(runs, 0.95).set_index("contrast")
    assert found.loc["pretrained start - random start", "value"] == pytest.approx(0.2, abs=0.02)
    assert found.loc["mean segmentation source - pretrained start", "value"] == pytest.approx(0.11, abs=0.02)
    assert found.loc["mean auto-encoder source - pretrained start", "value"] == pytest.approx(0.03, abs=0.02)
    assert found.loc["head first - all, finetune", "value"] == pytest.approx(0.03, abs=0.02)
    assert found.loc["middle block only - all, finetune", "value"] == pytest.approx(-0.04, abs=0.02)
    assert "late block only - all, finetune" not in found.index, "nobody ran it"
    assert found.loc["best source on validation - pretrained start", "value"] == pytest.approx(0.14, abs=0.02)
    for mode in ("finetune", "freeze"):
        row = found.loc[f"verdict's list - random, {mode}"]
        assert row["low"] > 0
        assert row["value"] == pytest.approx(0.05, abs=0.02)
    assert (found["n_targets"] == 7).all()
    ranking = ranking_over_targets(scores, runs, Verdict())
    taus = ranking.set_index("score")["tau"]
    assert taus["logme"] > 0.8
    assert taus["rmse"] == -taus["logme"], "a distance: smaller is better"
    assert ranking.set_index("score").loc["logme", "regret"] < 0.02 < ranking.set_index("score").loc["rmse", "regret"]
    answers = study_answers(contrasts(runs, 0.95), pd.DataFrame(), ranking, 0.95).set_index("question")["answer"]
    assert answers["Does the verdict's list beat a random list of equal size? (frozen)"] == HOLDS
    assert answers["Does some score rank the sources?"] == HOLDS


def test_scores_that_mean_nothing_seldom_rank_the_sources():
    """Sources that are good for one target are good for all, and so are the scores: targets are no new draws."""
    wrong, studies, settings = 0, 60, Verdict(resamples=200)
    names, targets = ["logme", "gbc", "leep", "cka", "h_score"], [f"t{i}-seg" for i in range(4)]
    for number in range(studies):
        rng = np.random.default_rng(number)
        sources = [f"s{i}-seg" for i in range(5)]
        worth, told = rng.normal(size=5), rng.normal(size=(5, len(names)))
        runs = pd.DataFrame([
            {"net": "n", "target": t, "source": s, "reused": "all", "mode": "finetune", "seed": 0, "split": "test",
             "class": "mean", "dice": worth[i] + 0.3 * rng.normal()}
            for t in targets for i, s in enumerate(sources)
        ])  # fmt: skip
        scores = pd.DataFrame([
            {"net": "n", "target": t, "source": s, "score": name, "value": told[i, k] + 0.3 * rng.normal()}
            for t in targets for i, s in enumerate(sources) for k, name in enumerate(names)
        ])  # fmt: skip
        ranking = ranking_over_targets(scores, runs, settings)
        answers = study_answers(pd.DataFrame({"contrast": []}), pd.DataFrame(), ranking, 0.95)
        wrong += answers.set_index("question")["answer"]["Does some score rank the sources?"] == HOLDS
    assert wrong <= stats.binom.ppf(0.999, studies, 0.025)


def test_a_regret_is_over_all_sources_also_over_those_that_a_score_does_not_know():
    runs, scores = planted(noise=0)
    scores = scores[scores["score"] == "logme"]
    best = dict(of_starts(runs).sort_values("dice").groupby("target")["source"].last())
    least = scores[[best[t] != s for t, s in zip(scores["target"], scores["source"], strict=True)]]
    found = [ranking_over_targets(known, runs, Verdict(resamples=100)).iloc[0] for known in (scores, least)]
    assert found[0]["regret"] < 0.005 < 0.015 < found[1]["regret"]
    assert found[1]["n_sources"] == found[0]["n_sources"] - 1


def test_the_best_source_is_chosen_on_validation_and_reported_on_test():
    runs, _ = planted(noise=0)
    own = (runs["target"] == "t0-seg") & (runs["source"] == "s3-seg")
    runs.loc[own & (runs["split"] == "val"), "dice"] = 0.99
    runs.loc[own & (runs["split"] == "test"), "dice"] = 0.11
    row = gains_table(runs).set_index("target").loc["t0-seg"]
    assert (row["best_source"], row["best"]) == ("s3-seg", pytest.approx(0.11))


def test_wrong_answers_are_rare_without_an_effect():
    answers = [
        study_answers(contrasts(planted(seed=seed)[0], 0.95), pd.DataFrame(), pd.DataFrame({"n_targets": []}), 0.95)
        for seed in range(60)
    ]
    asked = "Does the verdict's list beat a random list of equal size? (fine-tuned)"
    wrong = sum(a.set_index("question")["answer"][asked] in (HOLDS, FAILS) for a in answers)
    assert wrong <= stats.binom.ppf(0.999, 60, 0.05)


def sweeps(drops):
    """One kernel that all networks have, and one of their own."""
    rows = []
    for (net, source), drop in drops.items():
        for i, target in enumerate(TARGETS):
            for module, of in (("encoder.a", drop), (f"{net}.b", 0.9)):
                rows += [
                    {"net": net, "target": target, "source": source, "kind": "W", "module": module, "final": False,
                     "patient": p, "baseline": 0.9, "dice": 0.9 - of - 0.001 * i}
                    for p in "ab"
                ]  # fmt: skip
    return pd.DataFrame(rows)


def test_ancestor_and_architecture_are_told_apart_by_the_kernels_that_all_have():
    drops = {("p", "x"): 0.1, ("q", "x"): 0.3, ("p", "random"): 0.5, ("q", "random"): 0.5}
    drops |= {("pr", "x"): 0.4, ("qr", "x"): 0.4, ("pr", "random"): 0.5, ("qr", "random"): 0.5}
    reuse = reuse_table(sweeps(drops), Verdict(tolerance=0.2))
    assert set(reuse["n_kernels"]) == {1}
    own = reuse[reuse["target"] == "t0-seg"].set_index("net")
    assert own.loc["p", "reuse"] == pytest.approx(0.8)
    assert own["reusable"].to_dict() == {"p": 1.0, "q": 0.0, "pr": 0.0, "qr": 0.0}
    found = ancestry_effects(reuse, {"P": ("p", "pr"), "Q": ("q", "qr")}, 0.95).set_index("effect")
    assert found.loc["common ancestor - none", "value"] == pytest.approx(0.4, abs=0.01)
    assert found.loc["P - Q", "value"] == pytest.approx(0.2, abs=0.01)


def test_two_guides_agree_as_far_as_they_say_the_same():
    layers = [{"kind": "W", "layer": i, "module": f"m{i}", "final": i == 8, "scalars": 1} for i in range(9)]

    def sweep(drops):
        rows = [
            {**layer, "patient": "p", "baseline": 1.0, "dice": 1 - drop}
            for layer, drop in zip(layers, drops, strict=True)
        ]
        return pd.DataFrame(rows).assign(net="n", target="t", source="s", seed=0)

    whole = [0.0, 0.01, 0.02, 0.03, 0.1, 0.2, 0.3, 0.4, 0.0]
    (row,) = guides_table(sweep(whole), sweep([0.0, 0.01, 0.5, 0.6, 0.02, 0.7, 0.8, 0.9, 0.9]), Verdict()).to_dict(
        "records"
    )
    assert (row["n_pairs"], row["reusable_all"], row["reusable_few"], row["both"]) == (8, 4, 3, 2)
    assert row["agreement"] == 5 / 8
    assert row["expected"] == pytest.approx(0.5 * 3 / 8 + 0.5 * 5 / 8)
    (same,) = guides_table(sweep(whole), sweep(whole), Verdict()).to_dict("records")
    assert (same["agreement"], same["spearman"]) == (1, pytest.approx(1))


def test_a_source_is_also_told_by_its_own_dice_and_its_size():
    scores = pd.DataFrame(
        [{"net": "n", "target": "t0-seg", "source": s, "score": "cka", "value": 0.5} for s in ("a-seg", "a-auto")]
    )
    base = pd.DataFrame([{"net": "n", "model": "a-seg", "split": "val", "class": "mean", "dice": 0.8}])
    data = pd.DataFrame([{"dataset": "a", "split": "train", "slices": 30}])
    found = score_table(scores, base, data).set_index(["score", "source"])["value"]
    assert found["source_dice", "a-seg"] == 0.8
    assert np.isnan(found["source_dice", "a-auto"])
    assert found["source_slices", "a-auto"] == 30


def test_nothing_is_decided_of_one_target():
    runs, scores = planted()
    runs, scores = (table[table["target"] == "t0-seg"] for table in (runs, scores))
    found = contrasts(runs, 0.95)
    assert found["low"].isna().all()
    answers = study_answers(found, pd.DataFrame(), ranking_over_targets(scores, runs, Verdict()), 0.95)
    assert set(answers["answer"]) == {UNDECIDED}


def test_every_run_of_the_study_is_planned_and_without_its_section_one_line_says_what_is_missing(tmp_path):
    """The demo's phantoms as targets of each other."""
    folder = Folder(tmp_path / "study")
    printed = folder.run("snakemake", "--cores", "1", "--dry-run", "study")
    assert printed.returncode != 0
    assert "add --configfile configs/study.yaml" in printed.stdout
    params = folder.read()
    params["datasets"]["acdc"]["split"] |= {"train": 2, "val": 2, "test": 2}
    params["datasets"]["t1"]["split"] |= {"train": 2, "val": 1, "test": 1}
    params["study"] = {
        "nets": ["unet"], "targets": ["acdc-seg", "t1-seg"],
        "sources": ["acdc-seg", "acdc-auto", "t1-seg", "t1-auto"], "samples": 2, "seeds": [0], "draws": 1,
        "ancestry": {"UNet": ["unet", "pspnet"]}, "connect": ["unet"], "train": {"steps": 2, "batch_size": 2},
        "search": {"rounds": 2, "steps": 2},
        "recipes": {"longer": {"net": "unet", "model": "t1-seg", "train": {"steps": 3, "batch_size": 2}}},
    }  # fmt: skip
    folder.write(params)
    planned = folder.planned("study")
    # Of each target: scratch, two sources, lists (verdict, random), frozen (the lists), and the modes of all.
    assert planned["study_start"] + planned["study_run"] == 2 * (1 + 2 + 2 + 2 + len(STUDY_PLANS))
    assert (planned["study_search"], planned["study_recipe"]) == (2, 1)
    assert (planned["study_scores"], planned["study_base"], planned["swap"], planned["control"]) == (4, 4, 4, 4)
    assert (planned["study_connect"], planned["study_together"]) == (2, 2)
    # The guide is the training from the network's own start, which is not trained twice.
    assert (planned["study_start"], planned["study_guide"]) == (2, 2)
    folder.must("snakemake", "--cores", "2", "study")
    page = (folder.path / "results/study/study.md").read_text()
    assert "## Answers" in page
    answers = pd.read_csv(folder.path / "results/study/answers.csv")
    assert set(answers["answer"]) <= {HOLDS, FAILS, UNDECIDED}
    search = pd.read_csv(folder.path / "results/study/search.csv")
    assert set(search["source"]) == {SCRATCH, "acdc-seg", "acdc-auto", "t1-seg", "t1-auto"}
    assert list(pd.read_csv(folder.path / "results/study/recipes.csv")["recipe"]) == ["longer"]
    together = pd.read_csv(folder.path / "results/study/together.csv")
    assert set(together["order"]) == {"greedy", "alone", "depth", "random0", "random1", "random2"}
    connected = pd.read_csv(folder.path / "results/study/connect.csv")
    assert set(connected["module"]) > {"whole network"}
    assert {"## Steps towards the source", "## How much can be reused at once?"} <= set(page.splitlines())
    assert not list(folder.path.glob("results/study/search/**/.*.resume")), "trainings are kept until the table is safe"
    assert folder.planned("study") == {}
    # One target more, of which lists are not asked for.
    params["datasets"]["other"] = {**params["datasets"]["t1"], "root": "data/phantom/other"}
    params["study"] |= {"targets": ["acdc-seg", "t1-seg", "other-seg"], "listed": ["acdc-seg", "t1-seg"]}
    folder.write(params)
    more = folder.planned("study")
    assert (more["study_start"], more["study_run"], more["study_search"], more["study_scores"]) == (1, 4, 1, 4)
    assert not {"study_connect", "study_together", "study_guide", "swap"} & set(more)
    assert (more["base"], more["study_base"]) == (1, 1), "not of the network that is there for the ancestry alone"


def test_the_page_in_docs_is_what_the_tables_beside_it_give():
    """No training, no run: docs/study/*.csv is enough."""
    params = read_params(ROOT / "params.yaml", ROOT / "configs/study.yaml", ROOT / "configs/study_ancestry.yaml")
    kept = [name for name in (*RAW, *CONNECTED) if name in RAW or (ROOT / f"docs/study/{name}.csv").is_file()]
    raw = {name: read_table(ROOT / f"docs/study/{name}.csv") for name in kept}
    made, _ = study_page(raw, params.study, params.verdict)
    for name in ("study_gains", "study_ranking", "study_regret", "study_connect"):
        made = made.replace(f"]({name}.png)", f"](images/{name}.png)")
    answers = "## Answers"
    assert (ROOT / "docs/study.md").read_text().endswith(made.partition(answers)[2])
    less, _ = study_page({**raw, "reuse": pd.DataFrame(), "recipes": pd.DataFrame()}, params.study, params.verdict)
    left_out = {"## Recipes", "## Architecture or ancestor", "## Effects on reuse"}
    assert left_out <= set(made.splitlines())
    assert not left_out & set(less.splitlines()), "of a study without configs/study_ancestry.yaml"


def test_targets_of_another_kind_stand_beside_the_others_and_change_nothing_about_them():
    params = read_params(ROOT / "params.yaml", ROOT / "configs/study.yaml", ROOT / "configs/study_ancestry.yaml")
    kept = {name: read_table(ROOT / f"docs/study/{name}.csv") for name in RAW}
    kinds = kinds_of_targets(kept)
    assert list(kinds) == ["real", "phantom", ALL_KINDS]
    assert kinds[ALL_KINDS] == [*kinds["real"], *kinds["phantom"]]
    verdict = params.verdict.model_copy(update={"resamples": 100})
    page, tables = study_page(kept, params.study, verdict)
    of_real = {
        name: table[table["target"].isin(kinds["real"])] if name in ("runs", "scores", "search") else table
        for name, table in kept.items()
    }
    alone, of_alone = study_page(of_real, params.study, verdict)
    assert "by kind of target" in page
    assert "by kind of target" not in alone
    pd.testing.assert_frame_equal(tables["answers"], of_alone["answers"])
    for name in BY_KIND:
        of_kind = tables[name][tables[name]["targets"] == "real"]
        pd.testing.assert_frame_equal(of_kind.reset_index(drop=True), of_alone[name].reset_index(drop=True))
        assert set(tables[name]["targets"]) == set(kinds)
    ranking = tables["ranking"].set_index(["targets", "score"])
    n = {kind: len(targets) for kind, targets in kinds.items()}
    assert {kind: ranking.loc[kind, "n_targets"].max() for kind in kinds} == n
    # A mean over all targets is that of the kinds, by their numbers.
    mean = (n["real"] * ranking.loc["real", "tau"] + n["phantom"] * ranking.loc["phantom", "tau"]) / n[ALL_KINDS]
    pd.testing.assert_series_equal(ranking.loc[ALL_KINDS, "tau"], mean)
    # What is over fewer targets than its column is headed by says so: lists are of the real ones alone.
    lines = page.partition("## Contrasts by kind of target")[2].splitlines()
    starts, lists = (next(x for x in lines if name in x) for name in ("start - random start", "verdict's list - all"))
    assert any(f"{ALL_KINDS}, n = {n[ALL_KINDS]} |" in x for x in lines)
    assert "n =" not in starts
    assert lists.endswith(f", n = {n['real']} |")
    assert lists.count("n =") == 1


def searched(costs, picks):
    """Searches that rank the pick of each round first."""
    rows = [
        {"net": "n", "target": target, "seed": seed, "full": 100, "source": source, "round": number, "steps": steps,
         "fold": fold, "patient": f"p{fold}", "dice": 0.9 if source == picks(target, number) else 0.5}
        for target in TARGETS for seed in (0, 1) for number, steps in enumerate(costs) for fold in (0, 1)
        for source in [SCRATCH, PRETRAINED, *SOURCES]
    ]  # fmt: skip
    return search_table(pd.DataFrame(rows))


def test_a_regret_is_what_the_best_start_would_have_given_and_the_cost_what_was_trained():
    runs, scores = planted(noise=0)
    best = {t: g.loc[g["dice"].idxmax(), "source"] for t, g in of_starts(runs).groupby("target")}
    found = regrets(searched([5, 10], lambda t, n: SCRATCH if n == 0 else best[t]), scores, runs, 0.95)
    found = found.set_index("way")
    assert found["cost"]["search, 1 rounds"] == pytest.approx(2 * 5 / 100)
    assert found["cost"]["search, 2 rounds"] == pytest.approx(2 * 10 / 100)
    assert found["regret"]["search, 1 rounds"] == pytest.approx(found["regret"][f"always {SCRATCH}"])
    assert found["regret"]["search, 2 rounds"] == pytest.approx(0, abs=0.01)
    assert found["regret"][f"always {SCRATCH}"] == pytest.approx(0.34, abs=0.01)
    assert found["regret"][f"always {PRETRAINED}"] == pytest.approx(0.14, abs=0.01)
    assert found["regret"]["score: LogME"] == pytest.approx(0, abs=0.01)
    assert found["cost"]["score: LogME"] == 0
    assert found["cost"]["score: RMSE (PR-RMSE 2)"] == pytest.approx(1 / (len(SOURCES) + 2)), "of a trained target"
    assert found["regret"]["score: RMSE (PR-RMSE 2)"] == pytest.approx(0.14, abs=0.01), "the worst source, as planted"
    assert np.isnan(found["more"]["search, 2 rounds"]), "the reference: the dearest within a quarter of the cost"
    assert found["more_low"][f"always {PRETRAINED}"] > 0


def test_a_search_that_had_its_answer_early_keeps_it():
    runs, scores = planted(noise=0)
    search = searched([5, 10], lambda t, n: SOURCES[0])
    found = regrets(search[(search["round"] == 0) | (search["target"] != "t0-seg")], scores, runs, 0.95)
    found = found.set_index("way")
    assert found["n_targets"]["search, 2 rounds"] == len(TARGETS)
    assert found["cost"]["search, 2 rounds"] == pytest.approx((6 * 2 * 10 + 2 * 5) / 7 / 100)


def test_a_search_that_costs_more_than_a_quarter_is_no_reference():
    runs, scores = planted(noise=0)
    found = regrets(searched([10, 30], lambda t, n: SOURCES[n]), scores, runs, 0.95).set_index("way")
    assert np.isnan(found["more"]["search, 1 rounds"])
    assert np.isfinite(found["more"]["search, 2 rounds"])


def planted_search(told):
    """Searches in which each source gains, over the pretrained start, what is told of it."""
    rows = [
        {"net": "n", "target": target, "seed": seed, "full": 100, "source": source, "round": 0, "steps": 10, "fold": 0,
         "patient": "p", "dice": 0.5 + (told(target, source) if source in SOURCES else 0.0)}
        for target in TARGETS for seed in (0, 1) for source in [SCRATCH, PRETRAINED, *SOURCES]
    ]  # fmt: skip
    return search_table(pd.DataFrame(rows))


def test_whether_a_search_tells_what_is_not_worth_it():
    settings = Verdict(resamples=100)
    runs, _ = planted(noise=0)
    full = of_starts(runs)
    full = full[full["seed"] == 0].set_index(["target", "source"])["dice"]
    half = sorted(full[t, s] for t in TARGETS for s in SOURCES)[len(TARGETS) * len(SOURCES) // 2]
    shifted = runs.assign(dice=runs["dice"].where(runs["source"] != PRETRAINED, half))

    right = no_transfer(planted_search(lambda t, s: full[t, s] - half), shifted, settings).iloc[0]
    assert right["start"] == PRETRAINED
    assert 0 < right["n_worth"] < right["n_cases"] == 2 * len(TARGETS) * len(SOURCES)
    assert right["low"] > 0.95  # told of the first seed, true of both
    assert no_transfer(planted_search(lambda t, s: half - full[t, s]), shifted, settings)["auroc"][0] < 0.05
    assert no_transfer(planted_search(lambda t, s: 0.1), shifted, settings)["auroc"][0] == 0.5
    everything = runs.assign(dice=runs["dice"].where(runs["source"] != PRETRAINED, 0))
    assert np.isnan(no_transfer(planted_search(lambda t, s: 0.1), everything, settings)["auroc"][0])


def test_gains_of_different_rounds_are_not_compared():
    """Early in a training the own start has hardly begun, so that a source that is dropped then gains most."""
    runs, _ = planted(noise=0)
    dice = of_starts(runs)
    half = dice.loc[dice["source"].isin(SOURCES), "dice"].median()
    shifted = runs.assign(dice=runs["dice"].where(runs["source"] != PRETRAINED, half))
    keys = ["target", "seed", "source"]
    worth = set(dice.loc[dice["dice"] - half > MARGIN, keys].itertuples(index=False, name=None))
    early = planted_search(lambda t, s: 0.4)
    late = planted_search(lambda t, s: 0.1).assign(round=1, steps=20)
    kept = [key[-1] not in SOURCES or key in worth for key in late[keys].itertuples(index=False, name=None)]
    table = no_transfer(pd.concat([early, late[kept]]), shifted, Verdict(resamples=100))
    assert list(table["seeds"].unique()) == ["0, 1", "0", "1"]
    assert list(table.groupby("seeds", sort=False)["n_cases"].first()) == [112, 56, 56]
    found = table[table["seeds"] == "0, 1"].set_index("told_by")["auroc"]
    assert found[ORDER] == 1.0
    assert found[GAIN] == 0.0
    assert found[ALL] > 0.95
