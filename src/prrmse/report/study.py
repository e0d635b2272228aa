"""The page of the study, as Markdown, from its tables alone: it can be made again without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from prrmse.names import MARGIN, PRETRAINED, SCRATCH, split_model
from prrmse.report.evidence import Section, sections_markdown
from prrmse.settings import Study, Verdict
from prrmse.tables.connect import connect_effects, together_effects
from prrmse.tables.inference import Interval
from prrmse.tables.ranking import SCORES
from prrmse.tables.regret import SHARE, no_transfer, regrets
from prrmse.tables.study import (
    RANDOM,
    ancestry_effects,
    contrasts,
    gains_table,
    ranking_over_targets,
    seeds_in_words,
    study_answers,
)

# The tables that the page is made from.
RAW = ("data", "base", "runs", "scores", "reuse", "guides", "search", "recipes")
# Those of a study in which targets are connected with their neighbours.
CONNECTED = ("connect", "llfc", "together")
# What is computed over the targets of one provenance, and over all of them.
BY_KIND = ("contrasts", "ranking", "regrets", "no_transfer")
ALL_KINDS = "all"


def study_page(raw: Mapping[str, pd.DataFrame], study: Study, verdict: Verdict) -> tuple[str, dict[str, pd.DataFrame]]:
    """The page, and the tables that were computed for it; a table without rows is left out of the page.

    Args:
        raw: the tables of `RAW`, and either all or none of `CONNECTED`.
        study, verdict: the parameters of these names.
    """
    level = verdict.level
    kinds = kinds_of_targets(raw)
    of_kinds = {kind: _over(raw, targets, verdict) for kind, targets in kinds.items()}
    own = next(iter(of_kinds.values()))
    first = next(iter(kinds.values()))
    of_pairs = [name for name in ("reuse", *CONNECTED) if name in raw and len(raw[name])]
    raw = {**raw, **{name: raw[name][raw[name]["target"].isin(first)] for name in of_pairs}}
    reuse = raw["reuse"]
    ancestry = ancestry_effects(reuse, dict(study.ancestry), level) if len(reuse) else pd.DataFrame()
    own["ancestry"] = ancestry
    own["answers"] = study_answers(own["contrasts"], ancestry, own["ranking"], level)
    sections = list(_sections(raw, own, study.samples, f"{level:.0%}"))
    if "connect" in raw:
        own["connect_effects"] = connect_effects(raw["connect"], raw["llfc"], verdict)
        own["together_effects"] = together_effects(raw["together"], level)
        sections += _connected(raw, own, verdict)
    tables = own | {name: _by_kind(of_kinds, name) for name in BY_KIND}
    if len(kinds) > 1:
        sections += _kinds(tables, list(kinds))
    return sections_markdown([section for section in sections if len(section.table)]), tables


def kinds_of_targets(raw: Mapping[str, pd.DataFrame]) -> dict[str, list[str]]:
    """The targets by the provenance of their data, that of the first target first; `ALL_KINDS` where they are several.

    Args:
        raw: the tables data and runs.
    """
    provenance = raw["data"].groupby("dataset")["provenance"].first()
    targets = list(raw["runs"]["target"].unique())
    kinds: dict[str, list[str]] = {}
    for target in targets:
        kinds.setdefault(provenance[split_model(target)[0]], []).append(target)
    return kinds | ({ALL_KINDS: targets} if len(kinds) > 1 else {})


def _over(raw: Mapping[str, pd.DataFrame], targets: list[str], verdict: Verdict) -> dict[str, pd.DataFrame]:
    """The tables `BY_KIND`, over some of the targets."""
    runs, scores, search = (raw[name][raw[name]["target"].isin(targets)] for name in ("runs", "scores", "search"))
    return {
        "contrasts": contrasts(runs, verdict.level),
        "ranking": ranking_over_targets(scores, runs, verdict),
        "regrets": regrets(search, scores, runs, verdict.level),
        "no_transfer": no_transfer(search, runs, verdict),
    }


def _by_kind(of_kinds: Mapping[str, Mapping[str, pd.DataFrame]], name: str) -> pd.DataFrame:
    """One table of every kind of targets, with the column ``targets``."""
    return pd.concat([own[name].assign(targets=kind) for kind, own in of_kinds.items()], ignore_index=True)


def _sections(
    raw: Mapping[str, pd.DataFrame], tables: Mapping[str, pd.DataFrame], samples: int, level: str
) -> Sequence[Section]:
    runs, base = raw["runs"], raw["base"]
    over = seeds_in_words(runs)
    data = raw["data"].pivot_table(
        index=["dataset", "provenance"], columns="split", values=["patients", "slices"], sort=False, aggfunc="max"
    )
    data.columns = data.columns.map("{0[1]}: {0[0]}".format)
    own = base[base["split"] == "test"]
    models = own.pivot_table(index=["net", "model"], columns="class", values="dice", sort=False).reset_index()
    sizes = own.groupby(["net", "model"], sort=False)["n_patients"].max().reset_index()
    classes = runs[(runs["split"] == "test") & ~runs["class"].isin(["background", "mean_with_background"])]
    lowest = classes[classes["mode"] == "finetune"].groupby(["net", "target", "class"], sort=False)["dice"].min()
    return [
        Section(
            "Answers",
            f"Each from the sign of a {level} interval over targets, undecided where it contains 0, none corrected for "
            "the number of questions; the last from a permutation test (below).",
            tables["answers"],
        ),
        Section("Data", "Patients and slices of each split.", data.reset_index()),
        Section(
            "Base models",
            "Trained on all training patients of their set, measured on its test patients: mean Dice by class "
            "(`mean`: of the foreground).",
            models.merge(sizes, on=["net", "model"]),
        ),
        Section(
            "Recipes",
            "What other steps, rates, batches and sizes of the images give a base model: mean foreground Dice of its "
            "validation and test patients.",
            raw["recipes"],
        ),
        Section(
            "Starts",
            f"Test Dice of each target with {samples} training patients (`n_train`: fewer where the set has fewer), "
            f"fine-tuned, mean over {over}: from random kernels (`{SCRATCH}`), from the network's own pretrained "
            f"weights (`{PRETRAINED}`), from the base model of another set that is best on the validation patients, "
            "and the means over the segmentation models and over the auto-encoders of other sets.",
            gains_table(runs),
            "study_gains",
            "Test Dice of every target by start, and by list of reused layers",
        ),
        Section(
            "Contrasts",
            "Differences in test Dice, one number for each target: mean, interval, smallest and largest. Lists: of the "
            "source that follows the target in the list of targets; a random list has nearly as many scalars (table "
            "Lists). With all of that source: the head trained for a third of the steps before the rest (Kumar et al. "
            "2022), one of three blocks of layers alone trained beside the head, and each tensor's rate by how large "
            "its gradients are beside its values (Auto-RGN; both Lee et al. 2023).",
            tables["contrasts"],
        ),
        Section(
            "Lists",
            "What the lists reuse: pairs, and scalars.",
            runs[runs["reused"] != "none"]
            .drop_duplicates(["net", "target", "source", "reused"])
            .query("reused != 'all'")[["net", "target", "source", "reused", "seed", "pairs_reused", "scalars_reused"]],
        ),
        Section(
            "Architecture or ancestor",
            "Kernels that all of these networks have (the encoder's), one swapped at a time from the source that "
            "follows the target in the list; `reuse`: 1 - drop / drop of a random kernel.",
            raw["reuse"],
        ),
        Section("Effects on reuse", "Over targets.", tables["ancestry"]),
        Section(
            "Which score ranks the sources?",
            "Kendall's tau of each score with the test Dice that a target's sources lead to, mean over targets with "
            "its interval. `p`: one-sided, by permuting the sources, the same way in all targets; `p_any`: corrected "
            "for the number of scores. `regret`: Dice lost by taking the source that is ranked first.",
            tables["ranking"].assign(score=[SCORES[score][1] for score in tables["ranking"]["score"]]),
            "study_ranking",
            "Rank correlation of every score with what the sources gain",
        ),
        Section(
            "What does a search cost, and what does it lose?",
            "Ways to choose one start of all (random kernels, pretrained weights, every base model of another set). "
            "`cost`: trained steps as a share of those of training from every start, one training at least for a score "
            "that compares with a trained target (here a longer one, of all patients); `regret`: test Dice of the "
            "best start less that of the chosen one, mean over targets with its interval (`worst`: of one target); the "
            "best of single trainings looks better than it is, so that the right choice has a regret, too. `more`: "
            f"regret less that of the search that spends at most {SHARE:.0%}, paired over targets. `search`: "
            "`prrmse advise --budget` on the few training patients alone (docs/advise.md), after each of its rounds.",
            tables["regrets"],
            "study_regret",
            "Regret of every way to choose a start against its cost",
        ),
        Section(
            "Does a search tell when not to transfer?",
            "Each source of each target is a case. A source is worth it if its full training gains more than "
            f"{MARGIN:g} Dice on the test patients over that from the network's own start (`start`). `auroc`: how well "
            "what is told of a source (`told_by`) tells these from the others (0.5 is a guess), with its interval over "
            "targets. A search keeps the better half of the starts after each round, so how long it kept a source is "
            "its own order; the gains of different rounds are not of one scale, since after few steps the own start "
            "has hardly begun.",
            tables["no_transfer"],
        ),
        Section(
            "The guide from few patients",
            f"The verdict needs a trained target, and who has only {samples} patients has one of these. `agreement`: "
            "share of the pairs of which the verdict by it says what the verdict by a target of all patients says; "
            "`expected`: the same, if the two had nothing to do with each other; `spearman`: of the drops.",
            raw["guides"],
        ),
        Section(
            "Lowest Dice of a class",
            "Over starts, lists and seeds, fine-tuned: a class near 0 would say that trainings were too short.",
            lowest.reset_index(),
        ),
    ]


def _connected(
    raw: Mapping[str, pd.DataFrame], tables: Mapping[str, pd.DataFrame], verdict: Verdict
) -> Sequence[Section]:
    tolerance = f"{verdict.tolerance:g}"
    orders = raw["together"]["order"]
    draws = orders[orders.str.startswith(RANDOM)].nunique()
    return [
        Section(
            "Steps towards the source",
            "Each target goes a quarter, half, three quarters and all of the way to the source that follows it in the "
            "list: a kernel alone, or `all` pairs but the final convolution's. `barrier`: by how much Dice falls below "
            "the line between both ends, at most (Adilova et al. 2024). `aligned`: the source's channels in the order "
            "in which its kernels agree best with the target's. `statistics re-estimated`: running statistics "
            "estimated again on training images of the target; `drop of none` is what that costs the target itself, "
            f"and what it mends is a share of a drop above the tolerance ({tolerance}). `linear connectivity`: cosine "
            "between the outputs of a kernel half way and the mean of those at both ends, mean over kernels, without "
            "labels (Zhou et al. 2023); to be read beside the agreement of the two ends themselves. On validation "
            "patients; mean over targets with its interval.",
            tables["connect_effects"],
            "study_connect",
            "Drop of half a step against that of the swap, and linear connectivity by layer",
        ),
        Section(
            "How much can be reused at once?",
            "Share of the scalars (without the final convolution's) that a target takes from the source that follows "
            "it in the list, if pairs are added in some order until the upper end of the interval of their joint drop "
            f"over validation patients exceeds {tolerance}; no statistics are re-estimated, nothing is trained. "
            "`greedy`: by the drop beside those that are taken already; `alone`: by the drop of each alone; `depth`: "
            f"from the image on; `random`: mean of {draws} orders. `more`: share of the greedy order "
            "less this one's, paired over targets. `drop_test`: joint drop on test patients.",
            tables["together_effects"],
        ),
    ]


def _kinds(tables: Mapping[str, pd.DataFrame], kinds: Sequence[str]) -> Sequence[Section]:
    """The questions asked of all targets at once, beside those of one provenance."""
    both = (
        f"Every mean over targets above is over the {kinds[0]} ones. `{ALL_KINDS}` takes every target for one more of "
        "the same."
    )
    told = tables["no_transfer"]
    told = told[told["seeds"] == told.groupby(["net", "targets"])["seeds"].transform("first")]
    return [
        Section(
            "Contrasts by kind of target",
            f"{both} Mean difference in test Dice with its interval; where only some of a column's targets have it "
            "(lists: those listed), over how many.",
            _side_by_side(tables["contrasts"], "contrast", "value", kinds, "+.3f"),
        ),
        Section(
            "Which score ranks the sources, by kind of target?",
            "Kendall's tau, mean over targets with its interval; `p_any` of all.",
            _side_by_side(
                tables["ranking"].assign(score=[SCORES[score][1] for score in tables["ranking"]["score"]]),
                *("score", "tau", kinds, ".2f", ["p_any"]),
            ),
        ),
        Section(
            "Regret by kind of target",
            "Mean regret of every way with its interval; its cost, and its regret less that of the search, of all.",
            _side_by_side(tables["regrets"], "way", "regret", kinds, ".3f", ["cost", "more", "more_low", "more_high"]),
        ),
        Section(
            "When not to transfer, by kind of target",
            "As above, of all seeds that a kind of target has.",
            told[["targets", *told.columns.drop("targets")]],
        ),
    ]


def _side_by_side(
    table: pd.DataFrame, row: str, value: str, kinds: Sequence[str], form: str, more: Sequence[str] = ()
) -> pd.DataFrame:
    """One line for each ``row``, a column for each kind of target, and some columns of all targets.

    A column is headed by the largest number of targets, and what is over fewer says so itself.

    Args:
        table: net, ``row``, ``value``, low, high, n_targets, targets.
        row, value: names of columns.
        kinds: of targets, `ALL_KINDS` last: its order of lines is kept.
        form: of the numbers.
        more: columns of all targets.
    """
    keys = ["net", row]
    last = table[table["targets"] == kinds[-1]].set_index(keys)
    found = last[[]].copy()
    for kind in kinds:
        own = table[table["targets"] == kind].set_index(keys)
        most = own["n_targets"].max()
        texts = [
            f"{Interval(*numbers):{form}}{'' if n == most else f', n = {n}'}"
            for *numbers, n in own[[value, "low", "high", "n_targets"]].itertuples(index=False)
        ]
        found[f"{kind}, n = {most}"] = pd.Series(texts, own.index, dtype=object)
    return found.join(last[list(more)]).reset_index()
