"""The commands on checkpoints: what they print and write, as JSON and as text, and what they refuse."""

import csv
import html
import io
import json
import re

import monai
import numpy as np
import pandas as pd
import pytest
import torch
import zoo
from cohorts import write_decathlon
from conftest import ARGUMENTS, COMPUTE, SETTINGS, initialise
from safetensors.torch import load_file

from prrmse import api
from prrmse.cli.commands import best_fit
from prrmse.cli.main import main
from prrmse.data import prepare as data
from prrmse.data.slices import Slices, load_slices, save_slices
from prrmse.learning.train import train
from prrmse.nets.arrays import read_header
from prrmse.nets.checkpoint import load_network, save_checkpoint
from prrmse.nets.layers import inventory
from prrmse.settings import Dataset

RUN = ["--threads", "1", "--device", "cpu"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, slices):
    """A trained target, its start, a foreign source of the same network, a noise source, and slices."""
    path = tmp_path_factory.mktemp("tool")
    start = initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0)
    header = {"net": "unet", "arguments": ARGUMENTS["unet"], "model": "a-seg", "seed": 0}
    header["layers"] = [layer._asdict() for layer in inventory(start)]
    save_checkpoint(start, path / "start.safetensors", header)
    settings = SETTINGS.model_copy(update={"steps": 60, "learning_rate": 0.01, "augment": False})
    train(start, slices.split("train"), "seg", settings, 0, COMPUTE)
    save_checkpoint(start, path / "target.safetensors", header)
    torch.save({"state_dict": {f"module.{k}": v for k, v in start.state_dict().items()}}, path / "twin.pth")
    noise = {k: torch.randn_like(v) if v.is_floating_point() else v for k, v in start.state_dict().items()}
    torch.save(noise, path / "noise.pt")
    save_slices(slices, path / "slices.npz")
    return path


def printed(capsys, *command):
    assert main([str(part) for part in command]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_inspect_lists_ours_in_the_networks_order(folder, capsys):
    rows = json.loads(printed(capsys, "inspect", folder / "target.safetensors", "--json"))
    assert len(rows) == 110
    assert (rows[0]["tensor"], rows[0]["shape"]) == ("inc.0.weight", "4x1x3x3")
    assert "inc.0.weight" in printed(capsys, "inspect", folder / "twin.pth", "--all")


def test_a_table_begins_with_its_summary_and_fits_the_terminal(folder, capsys, monkeypatch):
    target, noise = folder / "target.safetensors", folder / "noise.pt"
    monkeypatch.setenv("COLUMNS", "70")
    lines = printed(capsys, "inspect", target).splitlines()
    assert lines[0].startswith("110 pairs of kind and layer (19 W, ")
    assert len(lines) == 1 + 1 + 1 + 20 + 1 + 1
    assert lines[-1] == "20 of 110 rows; --all prints all, --csv and --json for other programs"
    assert max(map(len, lines[2:])) <= 70
    everything = printed(capsys, "inspect", target, "--all").splitlines()
    assert len(everything) == 3 + 110
    assert "tensor" in everything[2].split()
    rows = list(csv.DictReader(io.StringIO(printed(capsys, "inspect", target, "--csv"))))
    assert [row["tensor"] for row in rows] == [
        row["tensor"] for row in json.loads(printed(capsys, "inspect", target, "--json"))
    ]
    # The largest first, and the summary names it.
    data = ["--data", folder / "slices.npz", *RUN]
    text = printed(capsys, "sweep", target, noise, *data).splitlines()
    found = {
        row["kind"] + str(row["layer"]): row
        for row in json.loads(printed(capsys, "sweep", target, noise, *data, "--json"))
    }
    worst = max(found, key=lambda name: found[name]["drop"])
    reusable = sum(row["drop"] <= 0.05 for row in found.values())
    assert 0 < reusable < 110
    assert text[0].startswith(f"{reusable} of 110 pairs can each be taken alone with a mean drop of at most 0.05 from ")
    assert f"({worst}, {found[worst]['module']})" in text[0]
    assert "".join(text[3].split()[:2]) == worst
    assert text[3].split()[-1] == "False"
    assert "110 pairs; relative RMSE" in printed(capsys, "compare", target, noise).splitlines()[0]


def test_compare_prints_and_draws(folder, capsys, tmp_path):
    figure = tmp_path / "compare.png"
    command = ["compare", folder / "target.safetensors", folder / "noise.pt", "--figure", figure, "--json"]
    found = json.loads(printed(capsys, *command))
    assert found["does_not_fit"] == []
    assert len(found["distances"]) == 110
    assert figure.stat().st_size > 5000
    twins = json.loads(printed(capsys, "compare", folder / "target.safetensors", folder / "twin.pth", "--json"))
    assert {row["rmse"] for row in twins["distances"]} == {0}


def test_sweep_of_a_foreign_source(folder, capsys, tmp_path):
    files = ["--table", tmp_path / "rows.csv", "--figure", tmp_path / "sweep.svg"]
    command = ["sweep", folder / "target.safetensors", folder / "noise.pt", "--data", folder / "slices.npz", *files]
    rows = json.loads(printed(capsys, *command, *RUN, "--json"))
    assert len(rows) == 110
    assert max(row["drop"] for row in rows) > 0.2
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + 110 * 2
    assert (tmp_path / "sweep.svg").stat().st_size > 5000


@pytest.fixture(scope="module")
def many(folder, slices):
    """The slices as those of 12 patients, all to be measured on."""
    index = slices.index.assign(patient=[f"p{i:02d}" for i in range(12)], split="val")
    path = folder / "many.npz"
    save_slices(Slices(slices.image, slices.label, index, slices.meta), path)
    return path


EARLY = ["--until-decided", "0.05", "--stopping", "normal"]


def test_a_sweep_until_decided_measures_fewer_patients(folder, many, capsys, tmp_path):
    command = ["sweep", folder / "target.safetensors", folder / "noise.pt", "--data", many, *RUN]
    whole = pd.DataFrame(json.loads(printed(capsys, *command, "--json")))
    early = pd.DataFrame(json.loads(printed(capsys, *command, "--json", *EARLY)))
    assert (whole["n_patients"] == 12).all()
    assert set(early["n_patients"]) <= {3, 6, 12}
    assert early["n_patients"].mean() < 9
    assert (early["reusable"] == whole["reusable"]).mean() > 0.95
    text = printed(capsys, *command, *EARLY, "--table", tmp_path / "early.csv")
    found = re.search(r"measured on (.*) of 12 patients in the mean, by t tests at 0.05, which miss", text)
    assert found and float(found[1]) == pytest.approx(early["n_patients"].mean(), abs=0.05)
    assert len(pd.read_csv(tmp_path / "early.csv")) == early["n_patients"].sum()
    own = re.search(r"of at most 0.05 from (\S+);", text)
    assert own and float(own[1]) == pytest.approx(whole["baseline"].mean(), abs=5e-4), "the target's own, on all"
    text = printed(capsys, *command, *EARLY[:2])
    assert "patients in the mean, so that at a rate of at most 0.05 a verdict is not that on all of them" in text


def test_advice_until_decided_has_intervals_of_what_was_measured_on_all(folder, many, capsys, tmp_path):
    out, page = tmp_path / "advice.json", tmp_path / "advice.html"
    command = ["advise", folder / "target.safetensors", folder / "noise.pt", "--data", many, *RUN]
    printed(capsys, *command, *EARLY, "--out", out, "--page", page)
    advice = json.loads(out.read_text())
    rows = pd.DataFrame(advice["verdicts"])
    stopped = rows["n_cases"] < 12
    assert 0 < stopped.sum() < len(rows)
    assert rows.loc[stopped, ["drop_low", "drop_high"]].isna().all(axis=None)
    assert rows.loc[~stopped, ["drop_low", "drop_high"]].notna().all(axis=None)
    assert "patients in the mean, by t tests at 0.05" in advice["sentence"]
    assert (advice["until_decided"], advice["stopping"]) == (0.05, "normal")
    shown = re.sub(r"<(script|style).*?</\1>", "", page.read_text(), flags=re.DOTALL)
    assert f"were measured on {rows['n_cases'].mean():.1f} of 12 patients in the mean" in shown
    assert not re.search(r"\bnan\b", shown, re.IGNORECASE)


def test_a_sweep_pairs_patients_who_have_a_structure_only_falsely(folder, slices, capsys):
    """Without a structure in truth or prediction a patient has no Dice; a swap that finds one there falsely has."""
    label = slices.label.copy()
    label[slices.index["patient"] == "patient003"] = 0
    save_slices(Slices(slices.image * (label > 0), label, slices.index, slices.meta), folder / "empty.npz")
    command = ["sweep", folder / "target.safetensors", folder / "noise.pt", "--data", folder / "empty.npz", *RUN]
    rows = pd.DataFrame(json.loads(printed(capsys, *command, "--json")))
    assert (rows["drop"] - (rows["baseline"] - rows["score"])).abs().max() < 1e-9


def test_screen_puts_swaps_in_an_order_by_one_backward_pass(folder, capsys, tmp_path):
    data = ["--data", folder / "slices.npz", *RUN]
    sources = [folder / "noise.pt", folder / "twin.pth"]
    command = ["screen", folder / "target.safetensors", *sources, *data]
    rows = pd.DataFrame(json.loads(printed(capsys, *command, "--json")))
    assert rows.groupby("source").size().to_dict() == {"noise": 110, "twin": 110}
    assert rows["first_order"].is_monotonic_increasing
    assert (rows.loc[rows["source"] == "twin", "first_order"] == 0).all(), "the target itself"
    swept = pd.DataFrame(json.loads(printed(capsys, "sweep", *command[1:3], *data, "--json")))
    both = rows[rows["source"] == "noise"].merge(swept, on=["kind", "layer"])
    assert both[["first_order", "drop"]].corr("spearman").iloc[0, 1] > 0.5
    text = printed(capsys, *command, "--table", tmp_path / "screen.csv")
    assert text.startswith("220 swaps by one backward pass (")
    assert len(pd.read_csv(tmp_path / "screen.csv")) == 220


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--until-decided", "0"], "until_decided: 0 is no rate of wrong verdicts"),
        (["--until-decided", "nan"], "until_decided: nan is no rate of wrong verdicts"),
        (["--until-decided", "0.5"], "until_decided: 0.5 is no rate of wrong verdicts"),
        (["--stopping", "normal"], "stopping: says how until_decided decides"),
        (["--until-decided", "0.05", "--rule", "upper"], "until_decided: decides by the mean drop"),
        (["--until-decided", "0.05", "--budget", "1m"], "--until-decided"),
    ],
)
def test_early_stopping_that_cannot_be_is_one_line(folder, capsys, options, message):
    command = ["advise", folder / "target.safetensors", folder / "noise.pt", "--data", folder / "slices.npz", *RUN]
    assert message in refused(capsys, *command, *options)


def test_advice_then_warmstart(folder, capsys, tmp_path):
    advice, out = tmp_path / "advice.json", tmp_path / "warm.safetensors"
    sources = [folder / "noise.pt", folder / "twin.pth"]
    data = ["--data", folder / "slices.npz", *RUN]
    outputs = ["--out", advice, "--page", tmp_path / "advice.html"]
    text = printed(capsys, "advise", folder / "target.safetensors", *sources, *data, *outputs)
    assert "Best fit: twin. 100% of its parameters can be taken" in text
    assert "not what training on gains, which --budget measures." in text
    assert "comes first" not in text, "the noise has features that are not finite"
    assert text.splitlines()[0] in (tmp_path / "advice.html").read_text()
    assert [row["source"] for row in json.loads(advice.read_text())["ranking"]] == ["twin", "noise"]
    elsewhere = tmp_path / "elsewhere.json"
    elsewhere.write_text(advice.read_text().replace(json.dumps(str(folder / "twin.pth")), '"."'))
    message = refused(capsys, "warmstart", folder / "start.safetensors", "--advice", elsewhere, "--out", out)
    assert "elsewhere.json: its source twin, .: a folder" in message
    printed(capsys, "warmstart", folder / "start.safetensors", "--advice", advice, "--out", out, "--exclude", "W1,RM2")
    twin, start = load_file(folder / "target.safetensors"), load_file(folder / "start.safetensors")
    warm = load_file(out)
    assert torch.equal(warm["inc.0.weight"], start["inc.0.weight"])
    assert torch.equal(warm["outc.weight"], start["outc.weight"])
    assert torch.equal(warm["inc.3.weight"], twin["inc.3.weight"])
    freeze = json.loads(out.with_suffix(".json").read_text())["freeze"]
    assert "inc.3.weight" in freeze
    assert not {"inc.0.weight", "outc.weight"} & set(freeze)
    printed(capsys, "warmstart", folder / "start.safetensors", "--source", folder / "twin.pth", "--out", out)
    assert torch.equal(load_file(out)["inc.0.weight"], twin["inc.0.weight"])


@pytest.mark.parametrize(
    ("logme", "named"),
    [([-0.4, -0.3, -0.5], "far"), ([-0.3, -0.4, -0.5], None), ([None, None, -0.5], "odd"), ([None] * 3, None)],
)
def test_the_source_that_logme_puts_first_is_named_where_it_is_another(logme, named):
    row = {"reusable_scalars": 0.9, "joint_change": -0.1, "joint_low": -0.2, "joint_high": 0.0, "n_cases": 3}
    ranking = pd.DataFrame([{"source": name, **row} for name in ("near", "far", "odd")])
    text = best_fit(ranking.assign(logme=np.array(logme, float)), 0.05, "parameters")
    assert text.startswith("Best fit: near. 90% of its parameters can be taken")
    assert "This is fit under a swap, not what training on gains, which --budget measures." in text
    assert re.findall(r"(\w+) comes first", text) == ([named] if named else [])


def test_a_network_by_import_path_on_a_folder_of_ones_own(folder, capsys, tmp_path):
    write_decathlon(tmp_path / "Task01")
    import torchvision

    arguments = {"weights": None, "weights_backbone": None, "num_classes": 4}
    torch.manual_seed(0)
    for name in ("a", "b"):
        network = torchvision.models.segmentation.fcn_resnet50(**arguments)
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
    spec = ["--network", "torchvision.models.segmentation:fcn_resnet50", "--arguments", json.dumps(arguments)]
    data = ["--data", tmp_path / "Task01", "--spacing", "2", "--size", "32", "--split", "all", "--memory-mb", "300"]
    command = ["sweep", tmp_path / "a.pth", tmp_path / "b.pth", *spec, *data, *RUN]
    rows = json.loads(printed(capsys, *command, "--json"))
    assert len(rows) == 55 + 1 + 4 * 54


def test_a_state_of_several_by_its_name(folder, capsys, tmp_path):
    """In each command that opens checkpoints; the state that is taken without the flag is the noise."""
    noise, good = (torch.load(folder / name, weights_only=True) for name in ("noise.pt", "twin.pth"))
    both, target, data = tmp_path / "both.pth", folder / "target.safetensors", ["--data", folder / "slices.npz", *RUN]
    torch.save({"teacher": noise, "student": good["state_dict"]}, both)
    entry, out = ["--entry", "student"], tmp_path / "warm.safetensors"
    means = [json.loads(printed(capsys, "inspect", both, *e, "--json"))[0]["mean"] for e in ([], entry)]
    expected = [float(noise["inc.0.weight"].mean()), float(good["state_dict"]["module.inc.0.weight"].mean())]
    assert means == pytest.approx(expected, abs=1e-6)
    for files in ([target, both], [both, target]):
        found = json.loads(printed(capsys, "compare", *files, *entry, "--json"))
        assert {row["rmse"] for row in found["distances"]} == {0}
    assert not any(r["drop"] for r in json.loads(printed(capsys, "sweep", target, both, *data, *entry, "--json")))
    network = ["--network", "unet", "--arguments", json.dumps(ARGUMENTS["unet"])]
    assert not any(
        r["drop"] for r in json.loads(printed(capsys, "sweep", both, target, *network, *data, *entry, "--json"))
    )
    advice = tmp_path / "advice.json"
    assert "100% of its parameters" in printed(capsys, "advise", target, both, *data, *entry, "--out", advice)
    own = load_file(target)["inc.3.weight"]
    for how in (["--advice", advice], ["--source", both, *entry]):  # the advice keeps the name
        printed(capsys, "warmstart", folder / "start.safetensors", *how, "--out", out)
        assert torch.equal(load_file(out)["inc.3.weight"], own)
    settings, listed = ["--steps", "1", "--out", tmp_path / "trained.safetensors"], tmp_path / "list.json"
    listed.write_text('{"frozen": ["inc.3.weight"]}')
    printed(capsys, "train", *network, *data, *settings, "--start", both, "--freeze", listed, *entry)
    assert torch.equal(load_file(tmp_path / "trained.safetensors")["inc.3.weight"], own)
    # A name for each file; a name that no file has; a name where there is nothing to choose.
    torch.save({"model_ema": noise, "model": good["state_dict"]}, tmp_path / "other.pth")
    two = printed(capsys, "compare", both, tmp_path / "other.pth", *entry, "--entry", "model", "--json")
    assert {row["rmse"] for row in json.loads(two)["distances"]} == {0}
    message = refused(capsys, "inspect", both, "--entry", "pupil")
    assert "--entry pupil: no such state; it has teacher, student" in message
    assert "there is no choice" in refused(capsys, "compare", target, folder / "twin.pth", *entry)
    torch.save({"a": {"net": noise}, "b": {"net": good["state_dict"]}}, both)
    assert "name one with --entry: a.net, b.net" in refused(capsys, "inspect", both)


def test_what_does_not_reach_the_output_is_not_warm_started(capsys, tmp_path):
    """MONAI's DynUNet registers the heads of its deep supervision behind the convolution that makes its output."""
    arguments = {
        "spatial_dims": 2, "in_channels": 1, "out_channels": 3, "kernel_size": [3, 3, 3], "strides": [1, 2, 2],
        "upsample_kernel_size": [2, 2], "filters": [4, 6, 8], "deep_supervision": True, "deep_supr_num": 1,
    }  # fmt: skip
    network = ["--network", "monai.networks.nets:DynUNet", "--arguments", json.dumps(arguments)]
    torch.manual_seed(0)
    torch.save(monai.networks.nets.DynUNet(**arguments).state_dict(), tmp_path / "source.pth")
    out = tmp_path / "warm.safetensors"

    def reused(*more):
        printed(capsys, "warmstart", *network, "--source", tmp_path / "source.pth", "--out", out, *more)
        return set(json.loads(out.with_suffix(".json").read_text())["reused"])

    final = {"output_block.conv.conv.weight", "output_block.conv.conv.bias"}
    found = reused()
    assert len(found) > 20
    assert not [name for name in found if name.startswith("deep_supervision_heads") or name in final]
    assert reused("--reuse-final") == found | final


def test_of_nnunets_network_only_the_head_in_use_is_warm_started(tmp_path):
    torch.manual_seed(0)
    network = zoo.nnunet(2, deep_supervision=True)
    pairs = api.reaching_pairs(network)
    assert {x.module for x in inventory(network)} - {x.module for x in pairs} == {"decoder.seg_layers.0"}
    assert {x.module for x in pairs if x.final} == {"decoder.seg_layers.1"}


def test_a_network_that_takes_no_usual_size_keeps_all_pairs_and_says_so(caplog):
    assert len(api.reaching_pairs(torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.Unflatten(2, (7, 11))))) == 2
    assert "takes no image of the sizes tried" in caplog.text


def refused(capsys, *command):
    assert main([str(part) for part in command]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert error[-1].startswith("error: ")
    return error[-1]


def test_what_is_refused_gets_one_line(folder, capsys, tmp_path):
    target, data = folder / "target.safetensors", ["--data", folder / "slices.npz", *RUN]
    (tmp_path / "half.pth").write_bytes((folder / "twin.pth").read_bytes()[:5000])
    torch.save({"other.weight": torch.ones(3)}, tmp_path / "other.pth")
    assert "not a complete checkpoint" in refused(capsys, "inspect", tmp_path / "half.pth")
    assert "nothing in it fits" in refused(capsys, "compare", target, tmp_path / "other.pth")
    assert "/: a folder" in refused(capsys, "advise", target, "/", *data)
    assert "no such file" in refused(capsys, "sweep", target, tmp_path / "none.pth", *data)
    assert "not a checkpoint of this program" in refused(capsys, "sweep", folder / "twin.pth", target, *data)
    assert "does not fit unet" in refused(capsys, "sweep", tmp_path / "other.pth", target, *data, "--network", "unet")
    assert "not a JSON object" in refused(
        capsys, "sweep", folder / "twin.pth", target, *data, "--network", "unet", "--arguments", "width=4"
    )
    assert "--split all" in refused(capsys, "sweep", target, folder / "twin.pth", *data, "--split", "test")
    assert "named twice" in refused(capsys, "advise", target, folder / "twin.pth", folder / "twin.pth", *data)
    assert "at least one source" in refused(capsys, "advise", target, *data)
    out = ["--out", tmp_path / "warm.safetensors"]
    assert "no such pair" in refused(
        capsys, "warmstart", target, "--source", folder / "twin.pth", *out, "--exclude", "W99"
    )
    assert "cannot be read as an advice" in refused(capsys, "warmstart", target, "--advice", folder / "twin.pth", *out)
    assert "name --source" in refused(capsys, "warmstart", target, *out)


def test_train_from_scratch_and_from_a_warm_start(folder, capsys, caplog, tmp_path):
    network = ["--network", "unet", "--arguments", json.dumps(ARGUMENTS["unet"]), "--data", folder / "slices.npz", *RUN]
    settings = ["--steps", "40", "--learning-rate", "0.01", "--batch", "4", "--json"]
    out, again, one = (tmp_path / f"{name}.safetensors" for name in ("own", "again", "one"))
    found = json.loads(printed(capsys, "train", *network, *settings, "--out", out))
    dice = {row["class"]: row["dice"] for row in found}
    assert dice["mean"] > 0.3
    assert {row["n_patients"] for row in found} == {2}
    assert {row["n_train"] for row in found} == {2}
    own = ["evaluate", out, "--data", folder / "slices.npz", *RUN, "--json", "--split"]
    measured = [row["dice"] for row in json.loads(printed(capsys, *own, "val")) if row["class"] == "mean"]
    assert sum(measured) / 2 == pytest.approx(dice["mean"])
    assert "was trained on" not in caplog.text
    printed(capsys, *own, "all")
    assert "was trained on 2 of these 4 patients" in caplog.text
    printed(capsys, "train", *network, *settings, "--out", again)
    assert again.read_bytes() == out.read_bytes()
    few = json.loads(printed(capsys, "train", *network, *settings, "--samples", "1", "--out", one))
    assert {row["n_train"] for row in few} == {1}
    swept = printed(capsys, "sweep", out, folder / "noise.pt", "--data", folder / "slices.npz", *RUN, "--json")
    assert len(json.loads(swept)) == 110, "what train wrote rebuilds itself"

    warm, frozen = (tmp_path / f"{name}.safetensors" for name in ("warm", "frozen"))
    printed(capsys, "warmstart", folder / "start.safetensors", "--source", folder / "twin.pth", "--out", warm)
    start = ["--start", warm, "--freeze", tmp_path / "warm.json"]
    printed(capsys, "train", *network, *settings, *start, "--out", frozen)
    before, after = load_file(warm), load_file(frozen)
    reused = set(json.loads((tmp_path / "warm.json").read_text())["reused"])
    for name, value in after.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(value, before[name]) == (name in reused), name


def test_evaluate_says_dice_of_each_structure_and_patient(folder, slices, capsys):
    command = ["evaluate", folder / "target.safetensors", "--data", folder / "slices.npz", *RUN]
    rows = json.loads(printed(capsys, *command, "--json"))
    found = {(row["patient"], row["class"]): row["dice"] for row in rows}
    val = slices.split("val")
    with torch.no_grad():
        made = load_network(folder / "target.safetensors")[0](torch.from_numpy(val.stacked)).argmax(1).numpy()
    for patient in val.patients():
        own = (val.index["patient"] == patient).to_numpy()
        for number, name in val.classes.items():
            p, t = made[own] == number, val.label[own] == number
            assert found[patient, name] == pytest.approx(2 * (p & t).sum() / (p.sum() + t.sum()), abs=1e-3)
    lines = printed(capsys, *command).splitlines()
    mean = sum(found[patient, "mean"] for patient in val.patients()) / 2
    assert lines[0].startswith(f"Dice {mean:.3f}, mean over structures and 2 patients (RV ")
    assert lines[2].split() == ["patient", "RV", "myocardium", "LV", "mean"]
    worst = min(val.patients(), key=lambda patient: found[patient, "mean"])
    assert lines[3].split()[0] == worst
    assert len(list(csv.DictReader(io.StringIO(printed(capsys, *command, "--csv"))))) == len(rows) == 2 * 6


def test_prepare_writes_once_what_the_other_commands_read(capsys, tmp_path):
    root, out, listed = tmp_path / "heart", tmp_path / "heart.npz", tmp_path / "split.csv"
    write_decathlon(root)
    command = ["prepare", "--data", root, "--spacing", "2", "--size", "32", "--out", out]
    text = printed(capsys, *command).splitlines()
    assert text[0] == f"{out}: 12 slices of 32 x 32 pixels of 2 mm; patients: 2 train, 2 val"
    read = data.prepare("heart", Dataset(format="nnunet", root=str(root), spacing_mm=2, size=32))
    assert load_slices(out).fingerprint() == read.fingerprint(), "as if the folder was named"
    listed.write_text("patient,split\nheart_000,train\nheart_003,val\nheart_001,test\n")
    rows = json.loads(printed(capsys, *command, "--split-file", listed, "--json"))
    assert {(row["split"], row["patients"], row["slices"]) for row in rows} == {
        (split, 1, 3) for split in ("train", "val", "test")
    }
    assert load_slices(out).patients("test") == ["heart_001"]
    assert "is processed already" in refused(capsys, "prepare", "--data", out, "--out", tmp_path / "b.npz")
    assert "--split-file: " in refused(capsys, *command, "--split-file", tmp_path / "none.csv")
    assert "--out: " in refused(capsys, *command[:-1], tmp_path / "heart.csv")


def test_train_refuses_before_it_trains(folder, capsys, tmp_path):
    data = ["--data", folder / "slices.npz", *RUN, "--out", tmp_path / "own.safetensors"]
    network = ["train", "--network", "unet", "--arguments", json.dumps(ARGUMENTS["unet"]), *data]
    listed = tmp_path / "list.json"
    listed.write_text('{"frozen": ["inc.0.weight"]}')
    assert "does not bring" in refused(capsys, *network, "--freeze", listed)
    listed.write_text('{"frozen": ["stem.weight"]}')
    assert "names stem.weight" in refused(capsys, *network, "--freeze", listed)
    assert "no such file" in refused(capsys, *network, "--start", tmp_path / "none.pth")
    two = ["train", "--network", "unet", "--arguments", '{"width": 4, "out_channels": 2}', *data]
    assert "has 4 classes with the background, the network 2" in refused(capsys, *two)
    assert not (tmp_path / "own.safetensors").exists()


@pytest.fixture
def budget(folder):
    """`prrmse advise` with a budget, on the two training patients."""
    network = ["--network", "unet", "--arguments", json.dumps(ARGUMENTS["unet"])]
    options = ["--data", folder / "slices.npz", "--split", "all", "--batch", 4, "--steps", 4, "--rounds", 2]
    return ["advise", folder / "twin.pth", *network, *options, "--folds", 3, "--learning-rate", 0.003, *RUN]


def test_advice_within_a_budget_then_warmstart_then_training(folder, budget, capsys, tmp_path):
    advice, warm = tmp_path / "advice.json", tmp_path / "warm.safetensors"
    outputs = ["--out", advice, "--figure", tmp_path / "curves.png", "--page", tmp_path / "advice.html"]
    text = printed(capsys, *budget, "--budget", "10m", "--plans", "half", *outputs)
    found = json.loads(advice.read_text())
    assert found["sentence"] in text
    assert {row["source"] for row in found["ranking"]} == {"scratch", "twin"}
    assert (tmp_path / "curves.png").stat().st_size > 5000
    page = (tmp_path / "advice.html").read_text()
    assert html.escape(found["sentence"]) in page and "data:image/svg+xml" in page
    network = budget[2:6]
    other = ["--advice", advice, "--source", "another", "--out", warm]
    assert "another" in refused(capsys, "warmstart", *network, *other) or found["answer"] != "transfer"
    if found["answer"] != "transfer":
        assert "advice.json: advises to start from scratch" in refused(
            capsys, "warmstart", *network, "--advice", advice, "--out", warm
        )
        found |= {"best": {"source": "twin", "plan": "half"}}  # as if it had been
    state = load_file(folder / "target.safetensors")
    made = initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0)
    body = [layer._asdict() for layer in inventory(made) if not layer.final]
    found["verdicts"] = [{"source": "twin", **layer, "reusable": True, "effect": True} for layer in body]
    found["freeze"] = [layer["tensor"] for layer in body if layer["tensor"].startswith("inc.")]
    advice.write_text(json.dumps(found))
    printed(capsys, "warmstart", *network, "--advice", advice, "--out", warm)
    listed = json.loads(warm.with_suffix(".json").read_text())
    assert len(listed["reused"]) == len(body)
    assert listed["frozen"] == found["freeze"]
    data = ["--data", folder / "slices.npz", "--steps", 2, "--batch", 4]
    start = ["--start", warm, "--freeze", warm.with_suffix(".json")]
    printed(capsys, "train", *network, *data, *start, *RUN, "--out", tmp_path / "final.safetensors")
    final = load_file(tmp_path / "final.safetensors")
    assert torch.equal(final["inc.0.weight"], state["inc.0.weight"]), "frozen"
    assert not torch.equal(final["outc.weight"], state["outc.weight"])


def test_advice_with_pretrained_weights_a_probe_and_a_verdicts_list(folder, budget, capsys, tmp_path):
    verdicts, advice = tmp_path / "verdicts.json", tmp_path / "advice.json"
    data = ["--data", folder / "slices.npz", *RUN]
    printed(capsys, "advise", folder / "target.safetensors", folder / "twin.pth", *data, "--out", verdicts)
    own = ["--pretrained", folder / "target.safetensors"]
    more = [*own, "--plans", "probe", "first2", "--verdicts", verdicts, "--out", advice]
    text = printed(capsys, *budget, "--budget", "10m", *more)
    assert "over the network's own pretrained weights" in text
    ranking = json.loads(advice.read_text())["ranking"]
    plans = {(row["source"], row["plan"]) for row in ranking}
    assert plans == {
        *(("pretrained", ""), ("scratch", "")),
        *(("twin", plan) for plan in ("probe", "first2", "verdict")),
    }
    found = json.loads(advice.read_text())
    body = [row for row in json.loads(verdicts.read_text())["verdicts"] if not row["final"]]
    found |= {"best": {"source": "twin", "plan": "probe"}, "freeze_steps": 2}  # as if it had won
    found |= {"verdicts": [{**row, "source": "twin"} for row in body], "freeze": [row["tensor"] for row in body]}
    advice.write_text(json.dumps(found))
    warm = ["warmstart", *budget[2:6], *own, "--advice", advice, "--out", tmp_path / "warm.safetensors"]
    assert "for the first 2 steps only" in printed(capsys, *warm)
    assert "for the first 2 steps only" in refused(capsys, *warm, "--nnunet", tmp_path / "Warm.py")
    listed, out = tmp_path / "list.json", tmp_path / "final.safetensors"
    listed.write_text('{"frozen": ["inc.0.weight"]}')
    network = [*budget[2:6], *data, "--steps", 4, "--batch", 4]
    first = ["--start", folder / "twin.pth", "--freeze", listed, "--freeze-steps", 2]
    printed(capsys, "train", *network, *own, *first, "--out", out)
    assert not torch.equal(load_file(out)["inc.0.weight"], load_file(folder / "target.safetensors")["inc.0.weight"])
    assert read_header(out)["freeze_steps"] == 2
    assert "--freeze-steps: 4" in refused(
        capsys, "train", *network, *first[:-1], 4, "--out", tmp_path / "b.safetensors"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "10m", "--plans", "last", "--data", "none"], "there is no plan last; name one of finetune, half"),
        (["--budget", "10m", "--rounds", "0", "--data", "none"], "between 1 and 12 rounds"),
        (["--budget", "10m", "--pretrained-part", "inc."], "are for --pretrained"),
        (["--budget", "10m", "--pretrained", "none.pth"], "none.pth"),
        (["--budget", "soon"], "--budget: soon: not a time"),
        (["--budget", "0"], "--budget: 0: not a time"),
        (["--budget", "0.001s"], "does not suffice for one fold"),
        (["--budget", "10m", "--steps", "0"], "--steps"),
        (["--budget", "10m", "--folds", "1"], "at least two folds"),
        (["--budget", "10m", "--rounds", "0"], "between 1 and 12 rounds"),
        (["--budget", "10m", "--samples", "2"], "--samples"),
        (["--budget", "10m", "--tolerance", "0.1"], "with --budget nothing reads --tolerance"),
        (["--budget", "10m", "--split", "tset"], "--split tset: a search is on the training patients"),
        (["--budget", "10m", "--verdicts", "a.json", "--out", "a.json"], "a.json would be overwritten"),
        (["--budget", "10m", "--pretrained", "none.pth", "--entry", "student"], "none.pth"),
        (["--budget", "10m", "--entry", "student"], "--entry student: there is no choice in"),
        (
            ["--figure", "curves.png"],
            "nothing reads --figure, --folds, --learning-rate, --rounds, --steps",
        ),
        (
            ["--augment", "--plans", "half"],
            "without --budget nothing reads --augment, --folds",
        ),
        (["--pretrained", "none.pth"], "--learning-rate, --pretrained, --rounds"),
        (["--augment"], "without --budget nothing reads --augment"),
        (["--pretrained-part", "inc."], "--pretrained-part, --rounds, --steps"),
        (["--verdicts", "advice.json"], "--steps, --verdicts"),
    ],
)
def test_a_budget_that_cannot_be_is_one_line(budget, options, message, capsys):
    assert message in refused(capsys, *budget, *options)
