"""Which checkpoint, reused how, is the best start for these patients: found by training within a time budget (ours)."""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import nn

from prrmse.api import StateLike, evaluation_for, part_of, reaching_pairs, state_of
from prrmse.data.slices import IGNORE, Slices, draw_patients
from prrmse.errors import InputError
from prrmse.experiments.halving import (
    NO_TRANSFER,
    TRANSFER,
    Candidate,
    answer_of,
    candidates_of,
    default_of,
    folds_of,
    from_sources,
    halve,
    ranking_of,
    steps_until,
)
from prrmse.files import write_text
from prrmse.learning.plans import check_plan, fixed_by
from prrmse.learning.snapshot import code_of, discard, program_digest, snapshot_of
from prrmse.learning.training_run import training_run
from prrmse.names import BLOCKS, MARGIN, OWN_STARTS, PRETRAINED, SCRATCH, USUAL_PLANS, Layer
from prrmse.nets.build import seeded_network
from prrmse.nets.checkpoint import load_checkpoint
from prrmse.nets.foreign import fit
from prrmse.nets.layers import fill, outside_of_pairs, state_digest, tensor_names
from prrmse.seeding import derive_seed
from prrmse.settings import Compute, Training

log = logging.getLogger(__name__)

MOST_ROUNDS = 12
PROBE, VERDICT = "probe", "verdict"
IN_WORDS = {
    "finetune": "train all of it",
    "half": "keep the first half of its layers fixed",
    "head": "train the final convolution only",
    PROBE: "train the final convolution alone for the first {first} steps, then all of it",
    VERDICT: "take only the pairs that its verdict calls reusable, and train all of it",
    **{block: f"train its {block} layers and the final convolution only" for block in BLOCKS},
}
OWN_IN_WORDS = {SCRATCH: "training from scratch", PRETRAINED: "the network's own pretrained weights"}


class Start(NamedTuple):
    """A candidate's network before its first step: what of its source is reused, and what of that stays fixed.

    ``first``: it stays fixed in the first round only.
    """

    state: dict[str, torch.Tensor]
    reused: list[Layer]
    frozen: list[Layer]
    first: bool


class Search(NamedTuple):
    """What `search` found.

    ``ranking``: of `prrmse.experiments.halving.ranking_of`, with ``steps``. ``curves``: one row for each (candidate,
    round, patient): source, plan, round, steps, fold, patient, dice. ``answer``: ``transfer``, ``do not transfer`` or
    ``undecided``. ``best``: the start to take: of the best source if the answer is ``transfer``, else the network's
    own (`prrmse.experiments.halving.default_of`). ``first``: steps of the first round.
    """

    ranking: pd.DataFrame
    curves: pd.DataFrame
    answer: str
    best: Candidate
    start: Start
    seconds: float
    first: int


def search(
    network: str,
    slices: Slices,
    sources: Mapping[str, StateLike],
    budget: float,
    *,
    arguments: Mapping[str, Any] | None = None,
    plans: Sequence[str] = USUAL_PLANS,
    pretrained: StateLike | None = None,
    lists: Mapping[str, Collection[str]] | None = None,
    folds: int = 5,
    rounds: int = 4,
    samples: int | None = None,
    everyone: bool = False,
    settings: Training | None = None,
    compute: Compute | None = None,
    seed: int = 0,
    folder: str | Path | None = None,
    replace: bool = False,
    trust: bool = False,
) -> Search:
    """Train every source by every plan, and from scratch, for as long as the budget allows and it is worth while.

    Args:
        network: ``unet``, ``pspnet`` or an import path ``module:callable``.
        slices: a data set; its training patients are used, each held out once. Those of ``val`` and ``test`` are left
            for the measurement of what is chosen: the best of several looks better than it is.
        sources: states or files by name.
        budget: seconds of training.
        arguments: keyword arguments of the network.
        plans: see `prrmse.experiments.halving.Candidate`.
        pretrained: the network's own pretrained weights, if it has any. What a source does not bring, and the final
            convolution, begins at them; a gain is then over the better of these and random kernels.
        lists: tensors by source that are the only ones reused, and trained further, by a further candidate of the plan
            ``verdict``.
        folds: groups of patients, each held out once; at most as many as there are patients.
        rounds: in each twice as many steps are done, by half as many candidates.
        samples: number of training patients, sampled with ``seed``; all if None.
        everyone: use the patients of all splits.
        settings, compute: of the trainings; ``steps`` are those of the last round.
        seed: of initialisation, patients, folds and batches.
        folder: where trainings are kept, so that the same call goes on where it was stopped; None to keep nothing.
        replace: delete what a folder holds of another search, instead of refusing it.
        trust: run the network's code wherever it comes from (`prrmse.nets.build.build_network`).

    Raises:
        InputError: a source called ``scratch`` or ``pretrained``; an unknown plan, or ``probe`` in one round; a list of
            no such source; fewer than two patients or folds; too many rounds; ``samples`` with ``everyone``; nothing of
            a source fits; the folder is of another search; the budget does not suffice for one fold; a network that
            does not take the slices.
        KeyboardInterrupt: Ctrl-C before there is any answer.
    """
    settings, compute = settings or Training(), compute or Compute()
    check_search(sources, plans, folds, rounds, samples, everyone=everyone)
    made = seeded_network(network, arguments or {}, network, "init", "", seed, trust=trust)
    pool = part_of(slices, "all") if everyone else draw_patients(slices, samples or len(slices.patients()), seed)
    patients = _measurable(pool)
    if len(patients) < 2:
        raise InputError(
            f"{slices.meta['dataset']}: a search needs at least two training patients with a labelled structure, to "
            "hold each out once"
        )
    groups = folds_of(patients, min(folds, len(patients)), seed)
    states = {name: state_of(source) for name, source in sources.items()}
    starts = _starts(made, states, plans, None if pretrained is None else state_of(pretrained), lists or {})
    identity = {
        **{"network": network, "arguments": dict(arguments or {}), "folds": groups, "rounds": rounds, "seed": seed},
        **{"initial": state_digest(made.state_dict()), "program": program_digest(), "torch": torch.__version__},
        **{"training": settings.model_dump(), "compute": compute.model_dump(), "data": pool.fingerprint()},
        "sources": {name: state_digest(state) for name, state in states.items()},
        "starts": {
            str(candidate): state_digest(start.state)
            for candidate, start in starts.items()
            if candidate.plan in ("", VERDICT)
        },
        "candidates": [list(candidate) for candidate in starts],
        "modules": [repr(made), code_of(made)],
    }
    with tempfile.TemporaryDirectory() as temporary:
        kept = Path(temporary) if folder is None else Path(folder)
        _claim(kept, identity, replace)
        trainings = _Trainings(made, pool, groups, starts, kept, rounds, settings, compute, budget, (network, seed))
        least = 2 if PROBE in plans else 1
        rows = _whole(halve(list(starts), len(groups), rounds, trainings, least=least))
    if from_sources(rows).empty:
        if trainings.stopped:
            raise KeyboardInterrupt
        two = ", or for two rounds, which probe needs" if PROBE in plans else ""
        raise InputError(
            f"the budget of {budget:.0f} s does not suffice for one fold of {len(starts)} trainings{two}; a step took "
            f"{trainings.seconds_per_step:.2g} s; raise it, or name fewer sources, plans or <steps>"
        )
    ranking = ranking_of(rows, len(starts))
    answer = answer_of(ranking)
    first = from_sources(ranking).iloc[0]
    best = Candidate(first["source"], first["plan"]) if answer == TRANSFER else Candidate(default_of(ranking), "")
    totals = {r: steps_until(r, rounds, settings.steps) for r in range(rounds)}
    return Search(
        ranking.assign(steps=ranking["round"].map(totals)),
        rows.assign(steps=rows["round"].map(totals)),
        answer,
        best,
        starts[best],
        trainings.spent,
        totals[0],
    )


def check_search(
    sources: Iterable[str], plans: Sequence[str], folds: int, rounds: int, samples: int | None, *, everyone: bool
) -> None:
    """Refuse a search that cannot be, before any data are read; arguments as for `search`.

    Raises:
        InputError: says why.
    """
    if own := sorted(set(OWN_STARTS) & set(sources)):
        raise InputError(f"a source is called {own[0]}, as {OWN_IN_WORDS[own[0]]} is; give it another name")
    if PROBE in map(check_plan, plans) and rounds < 2:
        raise InputError("the plan probe trains the head alone in its first round, so it needs two rounds")
    if samples is not None and (samples < 1 or everyone):
        raise InputError(f"<samples>: a number of training patients from 1, for <split> other than all; not {samples}")
    if folds < 2:
        raise InputError(f"a search needs at least two folds, not {folds}")
    if not 1 <= rounds <= MOST_ROUNDS:
        raise InputError(f"a search has between 1 and {MOST_ROUNDS} rounds, not {rounds}")


def sentence(found: Search) -> str:
    """The answer as a sentence to act on."""
    first = from_sources(found.ranking).iloc[0]
    interval = f"{first['gain']:+.3f} ({first['gain_low']:+.3f} to {first['gain_high']:+.3f})"
    if math.isnan(first["gain_low"]):
        interval = f"{first['gain']:+.3f} (one fold: no interval)"
    n = f"{first['n_patients']} patients in {first['n_folds']} folds, {first['steps']} steps"
    name, how, default = first["source"], in_words(first["plan"], found.first), default_of(found.ranking)
    over = f"over {OWN_IN_WORDS[default]}"
    if found.answer == TRANSFER:
        return f"Start from {name} and {how}: gain in Dice {over} {interval}, {n}."
    if found.answer == NO_TRANSFER:
        return f"Do not transfer: no source gains {MARGIN:g} Dice {over}; best {name} {interval}, {n}."
    return (
        f"Undecided: the best is {name} ({how}), gain in Dice {over} {interval}, {n}. "
        "More patients, a longer budget or fewer candidates may tell."
    )


def in_words(plan: str, first: int) -> str:
    """What a plan does with its source, where the first round has so many steps."""
    if plan in IN_WORDS:
        return IN_WORDS[plan].format(first=first)
    return f"keep its first {plan.removeprefix('first')} layers fixed"


class _Trainings:
    """Trains a candidate in a fold for a round, once, while the budget lasts; counts the seconds."""

    def __init__(
        self,
        network: nn.Module,
        pool: Slices,
        folds: list[list[str]],
        starts: dict[Candidate, Start],
        folder: Path,
        rounds: int,
        settings: Training,
        compute: Compute,
        budget: float,
        identity: tuple[object, ...],
    ) -> None:
        self._network, self._pool, self._folds, self._starts = network, pool, folds, starts
        self._folder, self._rounds, self._settings, self._compute = folder, rounds, settings, compute
        self._budget, self._identity = budget, identity
        self._number = {candidate: i for i, candidate in enumerate(starts)}
        self._steps, self.spent, self.stopped = 0, 0.0, False

    @property
    def seconds_per_step(self) -> float:
        """Of the trainings so far."""
        return self.spent / self._steps if self._steps else 0.0

    def _steps_of(self, round_: int) -> int:
        done = steps_until(round_ - 1, self._rounds, self._settings.steps) if round_ else 0
        return max(steps_until(round_, self._rounds, self._settings.steps) - done, 1)

    def __call__(self, candidate: Candidate, fold: int, round_: int) -> dict[str, float] | None:
        """Dice by held-out patient; None where the budget does not suffice, or after Ctrl-C."""
        if self.spent + self.seconds_per_step * self._steps_of(round_) > self._budget:
            return None
        result = self._path(candidate, fold, round_).with_suffix(".json")
        if not result.is_file():
            try:
                self._train(candidate, fold, round_, result)
            except KeyboardInterrupt:  # the answer so far
                log.warning("stopped; the same command goes on from here")
                self.stopped = True
                return None
        found = json.loads(result.read_text(encoding="utf-8"))
        self.spent += found["seconds"]
        self._steps += self._steps_of(round_)
        dice: dict[str, float] = found["dice"]
        return dice

    def _path(self, candidate: Candidate, fold: int, round_: int) -> Path:
        return self._folder / f"{self._number[candidate]:03d}-fold{fold}-round{round_}.safetensors"

    def _train(self, candidate: Candidate, fold: int, round_: int, result: Path) -> None:
        begun = time.perf_counter()
        start, path = self._starts[candidate], self._path(candidate, fold, round_)
        before = self._path(candidate, fold, round_ - 1)
        network = copy.deepcopy(self._network)
        fill(network.state_dict(), load_checkpoint(before)[0] if round_ else start.state)
        held_out = self._pool.index["patient"].isin(self._folds[fold]).to_numpy()
        dice = training_run(
            network,
            self._pool.take(np.flatnonzero(~held_out)),
            evaluation_for(network, self._pool.take(np.flatnonzero(held_out)), self._compute),
            "seg",
            self._settings.model_copy(update={"steps": self._steps_of(round_)}),
            derive_seed(*self._identity, "search", fold, round_),
            self._compute,
            frozen=start.frozen if not (start.first and round_) else (),
            title=f"{candidate}, fold {fold + 1}, round {round_ + 1}",
            resume=snapshot_of(path),
            checkpoint=path,
        )
        mean = dice[dice["class"] == "mean"]
        by_patient = dict(zip(mean["patient"], mean["dice"].astype(float), strict=True))
        write_text(json.dumps({"seconds": time.perf_counter() - begun, "dice": by_patient}) + "\n", result)
        discard(snapshot_of(path))
        if round_:
            before.unlink(missing_ok=True)


def _starts(
    network: nn.Module,
    states: Mapping[str, Mapping[str, torch.Tensor]],
    plans: Sequence[str],
    pretrained: Mapping[str, torch.Tensor] | None,
    lists: Mapping[str, Collection[str]],
) -> dict[Candidate, Start]:
    random = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    body = [layer for layer in reaching_pairs(network) if not layer.final]
    names_of = tensor_names(network.state_dict())
    if apart := outside_of_pairs(network):
        log.warning(
            "%d parameters of the network are of no kind (%s ...): no source gives them, and every plan trains them",
            sum(apart.values()),
            next(iter(apart)),
        )

    def taken(state: Mapping[str, torch.Tensor], layers: Iterable[Layer]) -> dict[str, torch.Tensor]:
        return {name: state[layer.tensor] for layer in layers for name in names_of[layer.tensor]}

    def fitting(name: str, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # Pairs only: what a warm start can be made of, so that what is found can be handed over.
        fitted = fit(network.state_dict(), state)[0]
        offered = [layer for layer in body if layer.tensor in fitted]
        if not offered:
            raise InputError(f"{name}: nothing in it fits the network; see prrmse compare")
        return taken(fitted, offered)

    own = {**random, **({} if pretrained is None else fit(network.state_dict(), pretrained)[0])}
    offers = {source: fitting(source, state) for source, state in states.items()}
    found = {}
    for candidate in candidates_of(list(states), plans, pretrained=pretrained is not None):
        if candidate.source in OWN_STARTS:
            found[candidate] = Start(random if candidate.source == SCRATCH else own, [], [], False)
            continue
        offered = offers[candidate.source]
        reused = [layer for layer in body if layer.tensor in offered]
        fixed = fixed_by(candidate.plan, network, reused)
        found[candidate] = Start({**own, **offered}, reused, fixed, candidate.plan == PROBE)
    for source, names in lists.items():
        listed = [layer for layer in body if layer.tensor in names and layer.tensor in offers.get(source, {})]
        if not listed:
            raise InputError(f"{source}: the list of what to reuse names no pair of it that fits")
        found[Candidate(source, VERDICT)] = Start({**own, **taken(offers[source], listed)}, listed, [], False)
    return found


def _measurable(pool: Slices) -> list[str]:
    """The patients with a labelled structure: of others Dice is 0 or undefined, by what is predicted."""
    labelled = ((pool.label != 0) & (pool.label != IGNORE)).reshape(len(pool.label), -1).any(axis=1)
    known = set(pool.index.loc[labelled, "patient"])
    found = [patient for patient in pool.patients() if patient in known]
    if rest := len(pool.patients()) - len(found):
        log.warning("%d patients have no labelled structure: they are trained on, and not measured", rest)
    return found


def _whole(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows without those of a probe that got no further than its first round: so far it is no probe."""
    last = rows.groupby(["source", "plan"])["round"].transform("max")
    return rows[(rows["plan"] != PROBE) | (last > 0)].reset_index(drop=True)


def _claim(folder: Path, identity: Mapping[str, Any], replace: bool) -> None:
    """Say in a folder of trainings what they are of, so that none of another search is taken.

    Raises:
        InputError: it is of another search, and not to be replaced.
    """
    path, text = folder / "search.json", json.dumps(identity, indent=1, sort_keys=True) + "\n"
    if path.is_file() and path.read_text(encoding="utf-8") != text:
        if not replace:
            raise InputError(f"{folder}: holds the trainings of another search; name another folder, or delete it")
        log.info("%s: of another search; begun anew", folder)
        shutil.rmtree(folder)
    write_text(text, path)
