"""Fabricated tables with a known truth, in the contract's columns."""

from __future__ import annotations

import numpy as np
import pandas as pd

from prrmse.compare.distance import bn_shift_table, rmse_table
from prrmse.nets.build import build
from prrmse.nets.layers import inventory
from prrmse.settings import Verdict
from prrmse.tables.means import swap_table
from prrmse.tables.verdict import network_table, verdict_table

VERDICT = Verdict(resamples=200)
SMALL = {"unet": {"width": 4}, "pspnet": {"width": 8, "head_width": 64}}
MODELS = ["acdc-seg", "acdc-auto", "t1-seg", "t1-auto"]
SOURCES = MODELS[1:]
PATIENTS = [f"p{i}" for i in range(8)]


def layers_of(net: str) -> pd.DataFrame:
    return pd.DataFrame([layer._asdict() for layer in inventory(build(net, **SMALL[net]))])


def swap_parts(net: str, drop_of, seeds=(0, 1, 2)) -> pd.DataFrame:
    """Swaps whose drop is ``drop_of(kind, layer, net)``, with a little noise between seeds and patients."""
    rng, rows = np.random.default_rng(0), []
    for layer in layers_of(net).itertuples():
        for source in SOURCES:
            for seed in seeds:
                noise = 0.002 * (rng.standard_normal(len(PATIENTS)) + rng.standard_normal())
                for patient, e in zip(PATIENTS, noise, strict=True):
                    dice = np.clip(0.9 - drop_of(layer.kind, layer.layer, net) + e, 0, 1)
                    rows.append(
                        (layer.kind, layer.layer, layer.module, layer.final, layer.scalars, patient, dice, source, seed)
                    )
    columns = ["kind", "layer", "module", "final", "scalars", "patient", "dice", "source", "seed"]
    return pd.DataFrame(rows, columns=columns).assign(net=net, target="acdc-seg", baseline=0.9, **{"class": "mean"})


def transfer_rows(gain_of, seeds=(0, 1, 2), sources=()) -> pd.DataFrame:
    """Transfer runs whose gain over scratch is ``gain_of(source)``."""
    rng, rows = np.random.default_rng(1), []
    for samples in (10, 50):
        for arm, source in [
            ("scratch", "none"),
            *((a, s) for a in ("freeze", "finetune") for s in (sources or SOURCES[1:])),
        ]:
            for seed in seeds:
                dice = 0.6 + samples / 500 + gain_of(source) + 0.001 * rng.standard_normal()
                for name in ("RV", "myocardium", "LV", "background", "mean", "mean_with_background"):
                    rows.append(("pspnet", samples, arm, source, seed, min(samples, 40), 100, name, dice, 0.1, 8))
    columns = ["net", "samples", "arm", "source", "seed", "n_train", "pairs_reused", "class", "dice", "dice_sd"]
    return pd.DataFrame(rows, columns=[*columns, "n_patients"])


def fabricate(nets=("unet", "pspnet"), drop_of=lambda *_: 0.0, gain_of=lambda _: 0.0, seeds=(0, 1, 2)):
    """All tables of a run."""
    rng = np.random.default_rng(2)
    parts = pd.concat([swap_parts(net, drop_of, seeds) for net in nets], ignore_index=True)
    verdict = verdict_table(parts.drop(columns="class"), VERDICT)
    rmse, shift = [], []
    for net in nets:
        layers = layers_of(net)
        network = {k: v.numpy() for k, v in build(net, **SMALL[net]).state_dict().items()}
        for seed in seeds:
            states = {m: {k: v + 0.05 * rng.standard_normal(v.shape) for k, v in network.items()} for m in MODELS}
            for state in states.values():
                state.update({k: np.abs(v) for k, v in state.items() if "running_var" in k})
            for i, a in enumerate(MODELS):
                for b in MODELS[i + 1 :]:
                    ids = {"net": net, "model_a": a, "model_b": b, "seed": seed}
                    rmse.append(rmse_table(states[a], states[b], layers).assign(**ids))
            eps = dict.fromkeys(layers["module"], 1e-5)
            for source in SOURCES:
                ids = {"net": net, "target": "acdc-seg", "source": source, "seed": seed}
                shift.append(bn_shift_table(states["acdc-seg"], states[source], layers, eps).assign(**ids))
    base = pd.DataFrame(
        [(n, m, s, "mean", 0.9 if "seg" in m else np.nan, 0.1, np.nan if "seg" in m else 0.2, 0.1, 8)
         for n in nets for m in MODELS for s in seeds],
        columns=["net", "model", "seed", "class", "dice", "dice_sd", "mse", "mse_sd", "n_patients"],
    )  # fmt: skip
    data = pd.DataFrame(
        [("acdc", "phantom", "val", 8, 48, "LV", 0.03)],
        columns=["dataset", "provenance", "split", "patients", "slices", "class", "pixel_fraction"],
    )
    points = pd.DataFrame(
        [(n, m, m.split("-")[1], s, step, 1 / step, 0.001, 1 - 1 / step if "seg" in m else np.nan)
         for n in nets for m in MODELS for s in seeds for step in (1, 5, 10)],
        columns=["net", "model", "task", "seed", "step", "loss", "rate", "dice"],
    )  # fmt: skip
    return {
        "curves": points,
        "data": data,
        "base": base,
        "swap": swap_table(parts),
        "mean_dice": parts.drop(columns="class"),
        "rmse": pd.concat(rmse, ignore_index=True),
        "bn_shift": pd.concat(shift, ignore_index=True),
        "verdict": verdict,
        "network": network_table(verdict, VERDICT),
        "transfer": transfer_rows(gain_of, seeds),
    }
