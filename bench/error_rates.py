"""How often each rule for a claim or a statement is wrong, by simulation: `python bench/error_rates.py`.

Tables are drawn without an effect (at the edge of one, where a rule compares with a tolerance or a margin) and with an
effect in either direction, at several numbers of seeds, sources or layers, with noise of the size that the demo shows:
what two trainings differ by, what patients differ by, and both together.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from prrmse.settings import Verdict
from prrmse.tables import claims, findings
from prrmse.tables.answer import FAILS, HOLDS, UNDECIDED, Answer
from prrmse.tables.controls import control_summary
from prrmse.tables.factorial import effects_table
from prrmse.tables.joint import joint_effects
from prrmse.tables.markdown import markdown_table
from prrmse.tables.ranking import SCORES, gain_table, layer_correlations, permutation_tests

SETTINGS = Verdict(resamples=500)
EDGE = SETTINGS.tolerance
PATIENTS = 10
# Standard deviations of a Dice: between trainings, between patients, of one patient in one training, of a kernel's drop
# from one training to the next.
SEED, PATIENT, REST, KERNEL = 0.02, 0.03, 0.02, 0.03

Draws = np.random.Generator


def crossed(rng: Draws, means: np.ndarray, seeds: int, *, kernels: float = KERNEL) -> np.ndarray:
    """Values ``[rows, seeds, patients]`` about these means, with a part common to all rows and one of each row."""
    common = rng.normal(0, SEED, (1, seeds, 1)) + rng.normal(0, PATIENT, (1, 1, PATIENTS))
    own = rng.normal(0, kernels, (len(means), seeds, 1))
    return means[:, None, None] + common + own + rng.normal(0, REST, (len(means), seeds, PATIENTS))


def sweep_rows(drops: np.ndarray, **columns: Any) -> pd.DataFrame:
    """Rows of ``mean_dice`` from drops ``[layers, seeds, patients]``; layers count from 1."""
    layer, seed, patient = (index.ravel() for index in np.indices(drops.shape))
    table = pd.DataFrame({"layer": layer + 1, "seed": seed, "patient": patient, "dice": 0.8 - drops.ravel()})
    return table.assign(**{"baseline": 0.8, "final": False, "source": "a-seg", "target": "t-seg", **columns})


def around(middle: float, width: float, n: int) -> np.ndarray:
    """n means, as many below as above."""
    return middle + np.linspace(-width, width, n)


# ---- one function per rule: tables without an effect (0), with one that lets it hold (1) or fail (-1) ---------------


def claim_1(rng: Draws, seeds: int, effect: int) -> Answer:
    shift = 0.6 * effect
    parts = [
        sweep_rows(crossed(rng, around(EDGE + sign * shift, 0.1, 15), seeds), net=net, kind="W")
        for net, sign in (("pspnet", -1), ("unet", 1))
    ]
    network = pd.DataFrame({"net": ["pspnet", "unet"], "source": "all", "fraction_kernels": 0.5})
    return claims.rn_by_architecture({"mean_dice": pd.concat(parts), "network": network}, SETTINGS)


def claim_2(rng: Draws, seeds: int, effect: int) -> Answer:
    shifts = {"RM": effect, "RV": effect, "RW": 0, "RB": 0}
    parts = [
        sweep_rows(crossed(rng, around(0.1 + 0.3 * shift, 0.05, 5), seeds), net="unet", kind=kind)
        for kind, shift in shifts.items()
    ]
    return claims.mean_and_variance_matter_more({"mean_dice": pd.concat(parts)}, SETTINGS)


def claim_3(rng: Draws, seeds: int, effect: int) -> Answer:
    biases = np.append(np.linspace(0, EDGE, 9), 0.2)  # the ninth of ten is the 90 % quantile
    parts = [
        sweep_rows(crossed(rng, biases - 0.6 * effect, seeds, kernels=0.003), net="unet", kind="B"),
        sweep_rows(crossed(rng, around(EDGE + 0.6 * effect, 0.1, 15), seeds), net="unet", kind="W"),
    ]
    return claims.bias_reusable_kernel_not({"mean_dice": pd.concat(parts)}, SETTINGS)


def claim_4(rng: Draws, layers: int, effect: int) -> Answer:
    layer = np.arange(1, layers + 1)
    drop = rng.exponential(0.1, layers) - 0.1 * effect * layer
    rows = pd.DataFrame({"net": "unet", "kind": "RM", "layer": layer, "drop": drop})
    return claims.deeper_mean_more_reusable({"verdict": rows}, SETTINGS)


def claim_5(rng: Draws, kernels: int, effect: int) -> Answer:
    layer = np.arange(1, kernels + 1)
    chance = np.where([number in claims.NAMED_KERNELS for number in layer], 0.5 + 0.45 * effect, 0.5 - 0.45 * effect)
    rows = pd.DataFrame({"net": "pspnet", "kind": "W", "layer": layer, "reusable": rng.random(kernels) > chance})
    return claims.non_reusable_are_channel_raising({"verdict": rows}, SETTINGS)


MODELS = ("a-seg", "a-auto", "b-seg", "b-auto")


def claim_6(rng: Draws, seeds: int, effect: int, task: float = 0.0) -> Answer:
    """``effect`` 1: no difference and little noise, so that the margin can be excluded; -1: the same task is nearer."""
    noise, rows = 0.01 if effect == 1 else 0.05, []
    for seed in range(seeds):
        size = {model: 0.02 * np.exp(rng.normal(0, noise)) for model in MODELS}
        for i, a in enumerate(MODELS):
            for b in MODELS[:i]:
                near = 1 + (task - 0.4 * (effect < 0)) * (a.split("-")[1] == b.split("-")[1])
                value = near * np.hypot(size[a], size[b]) * np.exp(rng.normal(0, noise / 2))
                rows.append(("unet", a, b, seed, "W", False, value))
    rmse = pd.DataFrame(rows, columns=["net", "model_a", "model_b", "seed", "kind", "final", "rmse"])
    return claims.rmse_independent_of_data_and_task({"rmse": rmse}, SETTINGS)


def claim_6_at_margin(rng: Draws, seeds: int, _: int) -> Answer:
    """The same task is nearer by just the margin: may not be called a hold."""
    return claim_6(rng, seeds, 0, task=-claims.RMSE_MARGIN)


def transfer(rng: Draws, seeds: int, gain: dict[str, float]) -> pd.DataFrame:
    rows = []
    for samples in (10, 50):
        for seed in range(seeds):
            common = 0.6 + rng.normal(0, SEED)
            arms = [("scratch", "none"), *((arm, source) for arm in ("freeze", "finetune") for source in gain)]
            rows += [
                ("pspnet", samples, arm, source, seed, common + gain.get(source, 0.0) + rng.normal(0, SEED))
                for arm, source in arms
            ]
    table = pd.DataFrame(rows, columns=["net", "samples", "arm", "source", "seed", "dice"])
    return table.assign(**{"class": "mean"})


def claim_7(rng: Draws, seeds: int, effect: int) -> Answer:
    gain = dict.fromkeys(("b-seg", "b-auto", "c-seg"), 0.0)
    if effect > 0:
        gain["b-seg"] = -0.4
    if effect < 0:
        gain = dict.fromkeys(gain, 0.4)
    return claims.pretrained_not_always_helps({"transfer": transfer(rng, seeds, gain)}, SETTINGS)


def claim_8(rng: Draws, sources: int, effect: int) -> Answer:
    names = [f"s{i}-seg" for i in range(sources)]
    distance = rng.uniform(0.01, 0.03, sources)
    gain = rng.normal(0, 0.05, sources) - 100 * effect * distance
    rmse = pd.DataFrame({"net": "pspnet", "model_a": "t-seg", "model_b": names, "kind": "W", "final": False})
    tables = {
        "rmse": rmse.assign(rmse=distance),
        "transfer": transfer(rng, 2, dict(zip(names, gain, strict=True))),
        "verdict": pd.DataFrame({"target": ["t-seg"]}),
    }
    return claims.smallest_rmse_helps_most(tables, SETTINGS)


NETS = ("unet", "pspnet")


def control(rng: Draws, seeds: int, effect: int, name: str) -> pd.DataFrame:
    """The summary of a control with a drop of just the tolerance, much less, or much more, in every network."""
    parts = []
    for net in NETS:
        drops = crossed(rng, around(EDGE - 0.4 * effect, 0.05, 4), seeds)
        if name == "seed":  # seed s is compared with seed s + 1: both trainings leave their mark
            own, other = rng.normal(0, SEED, (2, seeds))
            other = own if rng.random() < 0.5 else other  # at worst the same mark
            drops = drops + (own + np.roll(other, -1))[:, None]
        parts.append(sweep_rows(drops, net=net, kind="W", source=name, module="m", scalars=1))
    return control_summary(pd.concat(parts), SETTINGS)


def permuted_copy(rng: Draws, seeds: int, effect: int) -> Answer:
    return findings.same_function_is_harmless({"controls": control(rng, seeds, effect, "permuted")}, SETTINGS)


def other_seed(rng: Draws, seeds: int, effect: int) -> Answer:
    return findings.other_seed_is_harmless({"controls": control(rng, seeds, effect, "seed")}, SETTINGS)


def kernel_drops(rng: Draws, seeds: int, network: float, initialisation: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    parts = []
    for net in NETS:
        for init in ("shared", "independent"):
            lost = 0.3 - network * (net == "pspnet") - initialisation * (init == "shared")
            drops = crossed(rng, np.array([lost, 0.5]), seeds, kernels=SEED)
            parts += [
                sweep_rows(drops[i : i + 1], net=net, init=init, source=source, drop=drops[i].ravel())
                for i, source in enumerate(("a-seg", "random"))
            ]
    rows = pd.concat(parts)
    return rows[rows["source"] != "random"], rows[rows["source"] == "random"]


def connection(rng: Draws, seeds: int, effect: int) -> Answer:
    effects = effects_table(*kernel_drops(rng, seeds, 0.25 * effect, 0.1), SETTINGS)
    return findings.short_connection({"effects": effects}, SETTINGS)


def initialisation(rng: Draws, seeds: int, effect: int) -> Answer:
    effects = effects_table(*kernel_drops(rng, seeds, 0.1, 0.25 * effect), SETTINGS)
    return findings.shared_initialisation({"effects": effects}, SETTINGS)


def joint(rng: Draws, seeds: int, together: float, recovered: float) -> pd.DataFrame:
    """Two networks of four layers, the first three harmless alone."""
    parts = []
    for net in NETS:
        means = {"alone": [0.2] * 4, "joint": [0.0, 0.0, 0.0, 0.6], "cumulative": [0.0, 0.0, together, 0.8]}
        for variant, values in means.items():
            drops = crossed(rng, np.array(values), seeds, kernels=0.01)
            parts.append(sweep_rows(drops, net=net, variant=variant))
        again = sweep_rows(crossed(rng, np.array([0.01, *[0.21 - recovered] * 4]), seeds), net=net)
        parts.append(again.assign(variant="reestimated", layer=again["layer"] - 1))
    return joint_effects(pd.concat(parts), SETTINGS)


def together(rng: Draws, seeds: int, effect: int) -> Answer:
    return findings.alone_means_together({"joint_effects": joint(rng, seeds, EDGE - 0.4 * effect, 0.1)}, SETTINGS)


def recovered(rng: Draws, seeds: int, effect: int) -> Answer:
    return findings.statistics_explain({"joint_effects": joint(rng, seeds, 0.2, 0.4 * effect)}, SETTINGS)


def layer_table(rng: Draws, kernels: int, slope: float) -> pd.DataFrame:
    """RMSE and drop of kernels from four sources; what is common to all of them is most of it."""
    rmse, noise = rng.normal(size=(2, kernels))
    rows = []
    for source in range(4):
        x, y = (v + 0.5 * rng.normal(size=kernels) for v in (rmse, slope * rmse + noise))
        rows.append(pd.DataFrame({"source": f"s{source}", "layer": range(kernels), "rmse": x, "drop": y}))
    table = pd.concat(rows).assign(net="unet", source_seed=0, final=False)
    random = pd.DataFrame({"net": "unet", "layer": range(kernels), "drop_random": rng.random(kernels)})
    return layer_correlations(table, random, SETTINGS)


def layer_distance(rng: Draws, kernels: int, effect: int) -> Answer:
    return findings.distance_predicts_drop({"layers": layer_table(rng, kernels, 3.0 * effect)}, SETTINGS)


def layer_distance_weak(rng: Draws, kernels: int, _: int) -> Answer:
    """The correlation is just `WEAK_CORRELATION`: may not be called a failure."""
    slope = 0.4  # Spearman over kernels of one source: 0.3
    return findings.distance_predicts_drop({"layers": layer_table(rng, kernels, slope)}, SETTINGS)


def gained(rng: Draws, runs: int, gain: list[float], models: int = 3) -> tuple[pd.DataFrame, np.ndarray]:
    names = [f"m{i}" for i in range(models)]
    rows = pd.DataFrame({"net": "unet", "arm": "finetune", "source": names, "source_seed": 0})
    return rows, crossed(rng, np.array(gain), runs, kernels=SEED)


def gains(rng: Draws, runs: int, effect: int) -> Answer:
    table = gain_table(*gained(rng, runs, [0.3 * effect] * 3), 0.95)
    return findings.reuse_gains({"gain": table}, SETTINGS)


def gains_at_margin(rng: Draws, runs: int, _: int) -> Answer:
    """Every source gains just `NO_GAIN`: may not be called a failure."""
    table = gain_table(*gained(rng, runs, [findings.NO_GAIN] * 3), 0.95)
    return findings.reuse_gains({"gain": table}, SETTINGS)


def ranked(rng: Draws, models: int, effect: int) -> dict[str, pd.DataFrame]:
    rows, values = gained(rng, 2, list(rng.normal(0, 0.1, models)), models)
    mean = values.mean((1, 2))
    gain = pd.Series(mean, index=pd.MultiIndex.from_frame(rows[["source", "source_seed"]]))
    scores = {score: gain if score == "rmse" and effect else gain * 0 + rng.normal(size=models) for score in SCORES}
    scores["rmse"] = scores["rmse"] * (effect or 1)
    found = pd.DataFrame(permutation_tests(list(scores.values()), gain, SETTINGS, "simulated"))
    return {"ranking": found.assign(net="unet", arm="finetune", score=list(scores), n_models=models, n_sources=models,
                                    tau=0.0, tau_low=np.nan, tau_high=np.nan)}  # fmt: skip


def closest(rng: Draws, models: int, effect: int) -> Answer:
    return findings.closest_gains_most(ranked(rng, models, effect), SETTINGS)


def some_score(rng: Draws, models: int, effect: int) -> Answer:
    return findings.some_score_ranks(ranked(rng, models, effect), SETTINGS)


class Rule(NamedTuple):
    """A rule, its unit, the numbers of it to simulate, and the answers that are wrong without an effect."""

    name: str
    simulate: Callable[[Draws, int, int], Answer]
    unit: str
    sizes: tuple[int, ...]
    wrong: tuple[str, ...] = (HOLDS, FAILS)
    reached: tuple[str, ...] = (HOLDS, FAILS)


RULES = [
    Rule("claim 1", claim_1, "seeds", (2, 3, 5)),
    Rule("claim 2", claim_2, "seeds", (2, 3, 5)),
    Rule("claim 3", claim_3, "seeds", (2, 3, 5)),
    Rule("claim 4", claim_4, "layers", (5, 10)),
    Rule("claim 5", claim_5, "kernels", (20,)),
    Rule("claim 6", claim_6, "seeds", (2, 3, 5), wrong=(FAILS,)),
    Rule("claim 6, at its margin", claim_6_at_margin, "seeds", (2, 3, 5), wrong=(HOLDS,), reached=()),
    Rule("claim 7", claim_7, "seeds", (2, 3, 5)),
    Rule("claim 8", claim_8, "sources", (3, 5, 8)),
    Rule("permuted copy", permuted_copy, "seeds", (2, 3, 5)),
    Rule("other seed", other_seed, "seeds", (2, 3, 5)),
    Rule("short connection", connection, "seeds", (2, 3, 5)),
    Rule("shared initialisation", initialisation, "seeds", (2, 3, 5)),
    Rule("alone and together", together, "seeds", (2, 3, 5)),
    Rule("stale statistics", recovered, "seeds", (2, 3, 5)),
    Rule("RMSE of a layer", layer_distance, "kernels", (18, 28), wrong=(HOLDS,)),
    Rule("RMSE of a layer, at its margin", layer_distance_weak, "kernels", (18, 28), wrong=(FAILS,), reached=()),
    Rule("gain", gains, "runs", (2, 3, 5), wrong=(HOLDS,)),
    Rule("gain, at its margin", gains_at_margin, "runs", (2, 3, 5), wrong=(FAILS,), reached=()),
    Rule("closest source", closest, "models", (3, 5, 6)),
    Rule("some score", some_score, "models", (3, 5, 6), wrong=(HOLDS,), reached=(HOLDS,)),
]


def rates(rule: Rule, n: int, effect: int, replicates: int) -> dict[str, float]:
    """How often each answer is given."""
    rng = np.random.default_rng(n)
    found = Counter(rule.simulate(rng, n, effect).answer for _ in range(replicates))
    return {answer: found[answer] / replicates for answer in (HOLDS, FAILS, UNDECIDED)}


def error_table(replicates: int) -> pd.DataFrame:
    """Each rule's rates of the answers that are wrong, and how often a large effect is recognised."""
    rows = []
    for rule in RULES:
        for n in rule.sizes:
            none = rates(rule, n, 0, replicates)
            row: dict[str, object] = {"rule": rule.name, "unit": rule.unit, "n": n}
            row |= {f"wrongly {a}": none[a] if a in rule.wrong else np.nan for a in (HOLDS, FAILS)}
            for answer, effect in ((HOLDS, 1), (FAILS, -1)):
                power = rates(rule, n, effect, replicates // 5)[answer] if answer in rule.reached else np.nan
                row[f"rightly {answer}"] = power
            rows.append(row)
    return pd.DataFrame(rows)


HEAD = """# How often an answer is wrong

Printed by `python bench/error_rates.py`; the rules stand in the docstrings of `src/prrmse/tables/claims.py` and
`findings.py`, the intervals and tests in `inference.py`.

Tables are drawn {replicates} times without an effect. What that means depends on the rule: no difference between
kinds, arms, networks or initialisations; layers, kernels or sources whose values are exchangeable; or, where a drop is
compared with `verdict.tolerance` or another margin, a drop exactly there. Trainings differ by an SD of {seed:g} Dice,
patients by {patient:g}, a kernel's drop from training to training by {kernel:g}, each single value by {rest:g}. An
answer that is wrong then must be given in at most 5 % (the simulation's own error: {error:.1%}). "Rightly" is how often
a large effect is found, in a fifth as many tables; where it stays near 0, n cannot tell and the answer is `undecided`.

"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=1000)
    n = parser.parse_args().replicates
    sizes = {"seed": SEED, "patient": PATIENT, "kernel": KERNEL, "rest": REST, "error": 2 * (0.05 * 0.95 / n) ** 0.5}
    print(HEAD.format(replicates=n, **sizes) + markdown_table(error_table(n)))


if __name__ == "__main__":
    main()
