"""What nnU-Net's own trainer wrote: opened, inspected, compared, swept and used as a start."""

import html
import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import COMPUTE
from nnunet import DEPTH, NAME, NETWORK, PATIENTS, SIZE, nnunet_run  # noqa: F401
from safetensors.torch import load_file
from tiny import ROOT
from torch import nn

from prrmse import api
from prrmse.cli.main import main
from prrmse.data.slices import IGNORE, load_slices
from prrmse.errors import InputError
from prrmse.experiments.halving import TRANSFER
from prrmse.handover.nnunet_plans import patches_of, read_plans, split_of_fold
from prrmse.nets.build import build_network, seeded_network
from prrmse.nets.foreign import file_of, read_state, state_entries
from prrmse.settings import Dataset


@pytest.fixture(scope="module")
def contents(nnunet_run):  # noqa: F811
    """Both checkpoints as nnU-Net's own trainer loads them."""
    return [torch.load(path, weights_only=False) for path in nnunet_run.checkpoints]


def test_the_file_is_as_nnunet_writes_it(nnunet_run, contents):  # noqa: F811
    assert {"network_weights", "optimizer_state", "grad_scaler_state", "logging", "_best_ema", "current_epoch",
            "init_args", "trainer_name", "inference_allowed_mirroring_axes"} <= contents[0].keys()  # fmt: skip
    with pytest.raises(Exception, match=r"(?i)weights.only"):  # its log holds numbers of NumPy
        torch.load(nnunet_run.checkpoints[0], weights_only=True)


def test_it_is_opened(nnunet_run, contents, caplog):  # noqa: F811
    with caplog.at_level("INFO"):
        found = [read_state(path) for path in nnunet_run.checkpoints]
    for state, content in zip(found, contents, strict=True):
        assert list(state) == list(content["network_weights"])
        assert all(torch.equal(state[name], tensor) for name, tensor in content["network_weights"].items())
        assert len({x.data_ptr() for x in state.values()}) < len(state), "shared tensors are shared no more"
    assert state_entries(nnunet_run.checkpoints[0]) == {"network_weights": len(found[0])}
    assert not any(record.levelname == "WARNING" for record in caplog.records)


def test_the_commands_inspect_and_compare_it(nnunet_run, contents, capsys):  # noqa: F811
    first, second = map(str, nnunet_run.checkpoints)
    main(["inspect", first, "--json"])
    pairs = json.loads(capsys.readouterr().out)
    network = build_network(NETWORK, nnunet_run.arguments(), trust=True)
    kernels = {x.weight.data_ptr() for x in network.modules() if isinstance(x, nn.Conv2d | nn.ConvTranspose2d)}
    assert len({pair["tensor"] for pair in pairs if pair["kind"] == "W"}) >= len(kernels)
    main(["compare", first, second, "--json"])
    rows = {row["tensor"]: row for row in json.loads(capsys.readouterr().out)["distances"]}
    a, b = (content["network_weights"] for content in contents)
    name = "encoder.stages.0.0.convs.0.conv.weight"
    assert rows[name]["rmse"] == pytest.approx(float((a[name] - b[name]).square().mean().sqrt()), rel=1e-5)


def test_each_tensor_is_one_pair(nnunet_run):  # noqa: F811
    path = nnunet_run.checkpoints[0]
    network = build_network(NETWORK, nnunet_run.arguments(), trust=True)
    of_network = [(x.kind, x.tensor) for x in api.inspect(network).itertuples()]
    assert len(of_network) == len({x.data_ptr() for x in network.parameters()})
    assert sorted((x.kind, x.tensor) for x in api.inspect(path).itertuples()) == sorted(of_network)


def image_and_network(run, content):
    network = build_network(NETWORK, run.arguments(), trust=True)
    network.load_state_dict(content["network_weights"])
    return torch.randn(2, 1, 40, 40, generator=torch.Generator().manual_seed(0)), network.eval()


def test_a_sweep_equals_parameters_set_in_place(nnunet_run, contents):  # noqa: F811
    image, network = image_and_network(nnunet_run, contents[0])
    source = contents[1]["network_weights"]

    @torch.no_grad()
    def evaluate(model):
        return {"case": float(model(image).double().square().mean())}

    table = api.sweep(network, nnunet_run.checkpoints[1], evaluate).set_index("tensor")["score"]
    assert len(table) >= len({x.data_ptr() for x in network.parameters()}) - 4  # two heads are not in use
    named = dict(network.named_parameters(remove_duplicate=False))
    for name, score in table.items():
        own = named[name].detach().clone()
        named[name].data.copy_(source[name])
        assert score == pytest.approx(evaluate(network)["case"], rel=1e-6), name
        named[name].data.copy_(own)


def test_the_commands_sweep_it_and_start_from_it(nnunet_run, contents, tmp_path, capsys):  # noqa: F811
    first, second = map(str, nnunet_run.checkpoints)
    network = ["--trust", "--network", NETWORK, "--arguments", json.dumps(nnunet_run.arguments())]
    data = ["--data", str(nnunet_run.raw), "--size", "48", "--split", "all", "--device", "cpu", "--threads", "1"]
    main(["sweep", first, second, *network, *data, "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {row["kind"] for row in rows} == {"W", "B", "RW", "RB"}
    assert any(row["drop"] for row in rows)
    main(["warmstart", first, "--source", second, *network, "--out", str(tmp_path / "warm.safetensors")])
    warm = build_network(NETWORK, nnunet_run.arguments(), trust=True)
    fitted, _ = api.fit(warm.state_dict(), load_file(tmp_path / "warm.safetensors"))
    warm.load_state_dict(fitted)
    reused = json.loads((tmp_path / "warm.json").read_text())["reused"]
    sources = [contents[1 if name in reused else 0]["network_weights"] for name, _ in warm.named_parameters()]
    assert len(reused) > 20
    for (name, parameter), source in zip(warm.named_parameters(), sources, strict=True):
        assert torch.equal(parameter, source[name]), name


def test_a_folder_of_results_stands_for_its_checkpoint(nnunet_run, capsys):  # noqa: F811
    first, second = nnunet_run.checkpoints
    assert file_of(first.parent) == first == file_of(first)
    assert main(["inspect", str(second.parent), "--csv"]) == 0
    by_folder = capsys.readouterr().out
    assert main(["inspect", str(second), "--csv"]) == 0
    assert capsys.readouterr().out == by_folder
    assert main(["inspect", str(first.parents[1])]) == 2
    names = "fold_0/checkpoint_final.pth, fold_1/checkpoint_final.pth"
    assert capsys.readouterr().err.strip().endswith(f"holds 2 checkpoints; name one of {names}")


@pytest.fixture
def planned(nnunet_run, tmp_path, monkeypatch):  # noqa: F811
    """In a folder with nnU-Net's folders, as a user has them."""
    for key, folder in nnunet_run.folders.items():
        if key != "nnUNet_results":
            (tmp_path / key).symlink_to(folder)
    monkeypatch.setenv("nnUNet_raw", "nnUNet_raw")
    monkeypatch.chdir(tmp_path)
    return f"nnUNet_preprocessed/{NAME}"


def test_the_voxels_are_those_that_nnunet_preprocessed(nnunet_run, planned):  # noqa: F811
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class

    folder = f"{planned}/nnUNetPlans_2d"
    theirs = infer_dataset_class(folder)(folder)
    assert len(theirs.identifiers) == PATIENTS
    plans = {name: read_plans(planned, name) for name in ("2d", "3d_fullres")}
    found = {name: plan.slices(Dataset(format="nnunet", root=str(plan.raw))) for name, plan in plans.items()}
    assert found["2d"].image.shape == (PATIENTS * DEPTH, 1, SIZE, SIZE)
    assert found["3d_fullres"].image.shape == (PATIENTS, 1, DEPTH, SIZE, SIZE)
    for case in theirs.identifiers:
        image, label, *_ = theirs.load_case(case)
        for slices in found.values():  # of these data the spacing is that of both configurations
            own = slices.take((slices.index["patient"] == case).to_numpy())
            counts = own.label != IGNORE
            np.testing.assert_array_equal(own.image[:, 0][counts], image[0].ravel())
            np.testing.assert_array_equal(own.label[counts], np.maximum(label[0], 0).ravel())


TINY = shlex.split("--budget 100s --steps 2 --rounds 1 --folds 2 --split all --plans finetune --device cpu --threads 1")


def documented():
    """The commands of docs/advise.md that are ours."""
    page = (ROOT / "docs/advise.md").read_text()
    (block,) = [x for x in re.findall(r"^```\n(.*?)^```$", page, re.S | re.M) if "--nnunet-plans" in x]
    assert len(block.strip().splitlines()) == 5
    return [shlex.split(line)[1:] for line in block.splitlines() if line.startswith("prrmse")]


@pytest.mark.parametrize("configuration", ["2d", "3d_fullres"])
def test_from_plans_to_the_best_start_as_documented(planned, tmp_path, monkeypatch, capsys, configuration):
    plans = read_plans(planned, configuration)
    source = seeded_network(NETWORK, plans.arguments, "source", trust=True).state_dict()
    fold = tmp_path / f"nnUNet_results/Dataset002_Lung/nnUNetTrainer__nnUNetPlans__{configuration}/fold_0"
    fold.mkdir(parents=True)
    torch.save({"network_weights": source}, fold / "checkpoint_final.pth")
    advise, warmstart = (
        [re.sub(r"(?<![^_])2d$", configuration, part).replace("Dataset001_Heart", NAME) for part in command]
        for command in documented()
    )
    monkeypatch.setattr("prrmse.search.answer_of", lambda _: TRANSFER)  # two steps tell nothing
    assert main([*advise, *TINY]) == 0
    found = json.loads((tmp_path / "advice.json").read_text())
    assert len(found["ranking"]) == 2 and all(0 < row["dice"] < 1 for row in found["ranking"])
    identity = json.loads((tmp_path / "advice.trainings/search.json").read_text())
    slices = plans.slices(Dataset(format="nnunet", root=str(plans.raw)))
    assert identity["arguments"] == plans.arguments and identity["data"] == slices.fingerprint()
    assert main(warmstart) == 0
    start = torch.load("trainers/nnUNetTrainerWarm.pth", weights_only=True)["network_weights"]
    theirs = build_network(NETWORK, {**plans.arguments, "deep_supervision": True}, trust=True)
    theirs.load_state_dict(start)
    kernel = "encoder.stages.0.0.convs.0.conv.weight"
    assert start[kernel].ndim == 2 + len(plans.patch)
    assert torch.equal(start[kernel], source[kernel])
    capsys.readouterr()
    measured = ["--nnunet-plans", planned, "--configuration", configuration, "--split", "all", "--device", "cpu"]
    assert main(["evaluate", str(fold), *measured, "--threads", "1", "--csv"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 5 * PATIENTS


def test_other_plans_are_another_search(planned, tmp_path):
    plans = json.loads((tmp_path / planned / "nnUNetPlans.json").read_text())
    plans["configurations"]["2d"]["normalization_schemes"] = ["NoNormalization"]
    content = {"nnUNetOtherPlans.json": plans, "dataset.json": read_plans(planned, "2d").dataset}
    for name, found in content.items():
        (tmp_path / name).write_text(json.dumps(found))
    other, own = (read_plans(path, "2d") for path in (tmp_path, planned))
    assert other.path.name == "nnUNetOtherPlans.json"
    assert other.digest != own.digest != read_plans(planned, "3d_fullres").digest
    ours, theirs = (x.slices(Dataset(format="nnunet", root=str(x.raw))) for x in (own, other))
    assert ours.meta["plans"]["sha256"] == own.digest
    assert theirs.image.max() > 100 > ours.image.max(), "the preprocessing is not that of the plans"


def test_prepared_once_for_all_commands(planned, capsys):
    plans = ["--nnunet-plans", planned, "--configuration"]
    assert main(["prepare", *plans, "3d_fullres", "--out", "squares.npz"]) == 0
    assert f"{PATIENTS} slices of {DEPTH} x {SIZE} x {SIZE} pixels of 1.5 mm" in capsys.readouterr().out
    expected = read_plans(planned, "3d_fullres")
    assert load_slices("squares.npz").meta["plans"]["sha256"] == expected.digest
    train = ["train", "--data", "squares.npz", "--steps", "1", "--device", "cpu", "--threads", "1", *plans]
    assert main([*train, "3d_fullres", "--out", "final.safetensors"]) == 0
    assert (
        load_file("final.safetensors").keys()
        <= build_network(NETWORK, expected.arguments, trust=True).state_dict().keys()
    )
    capsys.readouterr()
    assert main([*train, "2d", "--out", "final.safetensors"]) == 2
    assert "squares.npz: was not prepared by these plans" in capsys.readouterr().err


def test_a_folder_of_results_names_its_configuration(nnunet_run, planned):  # noqa: F811
    results = nnunet_run.checkpoints[0].parents[1]
    assert read_plans(results).configuration == "2d"
    assert read_plans(results).digest == read_plans(planned, "2d").digest
    assert read_plans(results / "fold_1") == read_plans(results)


def test_a_trained_fold_is_swept_and_advised_on_by_its_plans(nnunet_run, planned, monkeypatch, capsys, caplog):  # noqa: F811
    """As by arguments written by hand, with nnU-Net's preprocessing."""
    first, second = (path.parent for path in nnunet_run.checkpoints)
    options = ["--nnunet-plans", str(first), "--device", "cpu", "--threads", "1", "--json"]
    assert main(["sweep", str(first), str(second), *options]) == 0
    swept = json.loads(capsys.readouterr().out)
    assert "this split is not nnU-Net's" in caplog.text and "--split-file splits_final.json --fold K" in caplog.text
    network = build_network(NETWORK, nnunet_run.arguments(), trust=True)
    network.load_state_dict(read_state(nnunet_run.checkpoints[0]))
    slices = read_plans(planned, "2d").slices(Dataset(format="nnunet", root=f"nnUNet_raw/{NAME}")).split("val")
    table = api.sweep(network, nnunet_run.checkpoints[1], api.evaluation_for(network.eval(), slices, COMPUTE))
    expected = table.groupby("tensor")[["score", "baseline"]].mean()
    assert {row["tensor"] for row in swept} == set(expected.index)
    for row in swept:
        assert (row["score"], row["baseline"]) == pytest.approx(tuple(expected.loc[row["tensor"]]), abs=1e-3)
    caplog.clear()
    monkeypatch.setenv("nnUNet_preprocessed", "nnUNet_preprocessed")
    assert main(["advise", str(first), str(second), *options, "--page", "advice.html"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["ranking"]
    assert row["n_cases"] == PATIENTS // 2 and row["missing"] == 0
    assert caplog.text.count("this split is not nnU-Net's") == 1
    assert f"--split-file {planned}/splits_final.json --fold K" in caplog.text
    assert f"--nnunet-plans {first}" in html.unescape(Path("advice.html").read_text())


def test_a_fold_of_nnunet_is_a_split(nnunet_run, planned, capsys, caplog):  # noqa: F811
    folds = read_plans(planned, "2d").folds
    assert folds == Path(planned) / "splits_final.json"
    raw = ["--data", f"nnUNet_raw/{NAME}", "--spacing", "1.5", "--size", "48"]
    for data in (["--nnunet-plans", planned, "--configuration", "2d"], raw):
        for fold in (3, 0):
            given = ["--split-file", str(folds), "--fold", str(fold)]
            assert main(["prepare", *data, *given, "--out", "fold.npz"]) == 0
            found, theirs = load_slices("fold.npz"), json.loads(folds.read_text())[fold]
            assert found.patients("train") == sorted(theirs["train"])
            assert found.patients("val") == sorted(theirs["val"])
            assert found.meta["split"] == {"kind": "file", "path": str(folds), "fold": fold}
    assert "this split is not" not in caplog.text
    capsys.readouterr()
    cases = [f"patient00{i}" for i in range(PATIENTS)]
    splits = {
        "pairs": {"train": cases[1:4], "val": [cases[0], *cases[4:]]},
        "everyone": {"train": cases, "val": cases},
        "nobody": {"train": cases, "val": []},
        "other": {"train": cases[:1], "val": ["heart001"]},
    }
    for name, split in splits.items():
        Path(f"{name}.json").write_text(json.dumps([split]))
    first = ["--fold", "0"]
    assert main(["prepare", *raw, "--out", "fold.npz", "--split-file", "pairs.json", *first]) == 0
    assert load_slices("fold.npz").patients("val") == splits["pairs"]["val"]
    capsys.readouterr()
    for options, problem in [
        ([str(folds), "--fold", "5"], f"--fold: {folds} has 5 folds, counted from 0, and no fold 5"),
        (["split.csv", "--fold", "0"], "--fold: is one of nnU-Net's splits_final.json"),
        ([str(folds)], f"--fold: say by which fold of {folds}"),
        ([f"nnUNet_raw/{NAME}/dataset.json", *first], "dataset.json: not a splits_final.json of nnU-Net"),
        (["other.json", *first], "other.json: the case heart001 is not in the data set"),
        (["everyone.json", *first], "everyone.json: fold 0 leaves no patient to train on, or none for val"),
        (["nobody.json", *first], "nobody.json: fold 0 leaves no patient to train on, or none for val"),
        (["pairs.json", "--format", "acdc", *first], "pairs.json: is for --format nnunet, not acdc"),
    ]:
        Path("split.csv").write_text("patient,split\n")
        assert main(["prepare", *raw, "--out", "fold.npz", "--split-file", *options]) == 2
        assert problem in capsys.readouterr().err


def test_a_patient_of_whom_nnunet_trained_on_any_case_is_not_measured(tmp_path, caplog):
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": ["a_1", "b_1"], "val": ["a_2", "c_1"]}]))
    named = {case: tuple(case.split("_")) for case in ("a_1", "a_2", "b_1", "c_1")}
    assert split_of_fold(path, 0, named) == {"a": "train", "b": "train", "c": "val"}
    assert "fold 0 trains on cases of 1 patients of its val, such as a, who count as train" in caplog.text


SEARCH = ["advise", "a.pth", "--budget", "9s", "--nnunet-plans"]


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([*SEARCH, "PLANS", "--configuration", "2d", "--network", "unet"], "--network: follows from --nnunet-plans"),
        ([*SEARCH, "PLANS", "--configuration", "2d", "--size", "64"], "--size: follows from --nnunet-plans"),
        ([*SEARCH, "PLANS", "--configuration", "2d", "--spacing", "1"], "--spacing: follows from --nnunet-plans"),
        ([*SEARCH, "PLANS"], "--configuration: PLANS/nnUNetPlans.json has several; name one of 2d, 3d_fullres"),
        ([*SEARCH, "PLANS", "--configuration", "4d"], "has no 4d; name one of 2d, 3d_fullres"),
        ([*SEARCH, "absent"], "--nnunet-plans: absent does not exist"),
        ([*SEARCH, "nnUNet_raw"], "--nnunet-plans: nnUNet_raw holds no plans.json or nnUNetPlans.json"),
        ([*SEARCH, "PLANS", "--configuration", "2d", "--data", "absent"], "--data: absent does not exist"),
        (["advise", "a.pth", "--configuration", "2d"], "--configuration: is one of --nnunet-plans"),
        (["train", "--data", "nnUNet_raw", "--out", "a.safetensors"], "train: name the network"),
        (["train", "--network", "unet", "--out", "a.safetensors"], "train: --data: name a file"),
    ],
)
def test_what_cannot_be_is_one_line(nnunet_run, planned, capsys, arguments, problem):  # noqa: F811
    torch.save(read_state(nnunet_run.checkpoints[0]), "a.pth")
    assert main([planned if x == "PLANS" else x for x in arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert problem.replace("PLANS", planned) in error


def test_without_raw_data_one_line_says_so(planned, monkeypatch):
    plans = read_plans(planned, "2d")
    monkeypatch.setenv("nnUNet_raw", "elsewhere")
    with pytest.raises(InputError, match=rf"elsewhere/{NAME}, the raw data of the plans, does not exist"):
        plans.raw  # noqa: B018
    monkeypatch.delenv("nnUNet_raw")
    with pytest.raises(InputError, match=f"plans are for {NAME}; name its raw folder, or set nnUNet_raw"):
        plans.raw  # noqa: B018


@pytest.mark.parametrize(
    ("key", "named"),
    [
        ("network_class_name", "os.system"),
        ("network_class_name", "torch.nn.modules.module.warnings.warn"),
        ("norm_op", "torch.hub.load"),
    ],
)
def test_plans_that_name_other_code_need_trust(planned, tmp_path, key, named):
    dataset, plans = (
        json.loads((tmp_path / planned / name).read_text()) for name in ("dataset.json", "nnUNetPlans.json")
    )
    architecture = plans["configurations"]["2d"]["architecture"]
    (architecture if key in architecture else architecture["arch_kwargs"])[key] = named
    (tmp_path / "nnUNetPlans.json").write_text(json.dumps(plans))
    (tmp_path / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(InputError, match=f"names {named}, which is no network or layer"):
        read_plans(tmp_path, "2d")
    read_plans(tmp_path, "2d", trust=True)


@pytest.mark.parametrize(
    ("shape", "size", "number"),
    [
        ((4, 50, 30), (40, 40), 8),  # two to a slice; padded
        ((10, 50, 30), (4, 20, 16), 3 * 3 * 2),
        ((3, 5, 5), (8, 8, 8), 1),
        ((7, 7, 7), (7, 7, 7), 1),
    ],
)
def test_each_voxel_counts_once_and_with_its_own_image(shape, size, number):
    place = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    label = (place % 3).astype(np.uint8)
    patches = list(patches_of(np.stack([place, -place]), label, size))
    assert len(patches) == number
    assert {patch.image.shape for patch in patches} == {(2, *size)}
    counted = [patch.label != IGNORE for patch in patches]
    places = np.concatenate([patch.image[0][which] for patch, which in zip(patches, counted, strict=True)])
    assert sorted(places) == sorted(place.ravel())
    assert (np.concatenate([p.label[which] for p, which in zip(patches, counted, strict=True)]) == places % 3).all()


def test_patches_of_unknown_labels_alone_are_left_out():
    label = np.full((1, 8, 4), IGNORE, np.uint8)
    label[:, 4:] = 1
    (patch,) = patches_of(np.ones((1, 1, 8, 4), np.float32), label, (4, 4))
    assert (patch.label == 1).all()
