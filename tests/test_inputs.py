"""Whatever is given to the program ends in the right values or in one line; a defect of its own in one line too."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from damage import write_nnunet
from safetensors.torch import load_file, save_file

from prrmse import api
from prrmse.cli.main import main
from prrmse.config.checks import check_networks, check_params
from prrmse.config.params import read_params
from prrmse.data.slices import Slices, load_slices, save_slices
from prrmse.errors import InputError
from prrmse.failures import DEBUG, DEFECT, FIX, exit_status
from prrmse.learning.evaluate import Evaluation
from prrmse.log import in_words
from prrmse.nets.arrays import read_header
from prrmse.nets.build import build, build_network
from prrmse.nets.checkpoint import load_network, save_checkpoint
from prrmse.nets.layers import inventory
from prrmse.run.manifest import read_manifest
from prrmse.settings import Compute
from prrmse.tables.paper import transfer_latex, transfer_markdown
from prrmse.tables.store import read_table

ROOT = Path(__file__).parents[1]
NETWORK = ["--network", "unet", "--arguments", '{"width": 2}']


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A checkpoint of ours, one of another program, a processed data set and one as distributed."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = build("unet", width=2).eval()
    layers = [layer._asdict() for layer in inventory(network)]
    save_checkpoint(network, "own.safetensors", {"net": "unet", "arguments": {"width": 2}, "layers": layers})
    torch.save(network.state_dict(), "other.pth")
    rng = np.random.default_rng(0)
    label = np.zeros((4, 16, 16), np.uint8)
    label[:, 4:12, 4:12] = 1
    index = pd.DataFrame({"patient": list("abcd"), "frame": "1", "slice": 0, "split": ["train", "train", "val", "val"]})
    meta = {"dataset": "d", "classes": {"1": "a"}, "spacing_mm": 1.5, "provenance": "synthetic"}
    save_slices(Slices(rng.standard_normal((4, 16, 16)).astype(np.float32), label, index, meta), "d.npz")
    write_nnunet(tmp_path / "set", ".nii.gz")
    Path("advice.json").write_text(
        json.dumps({
            "sources": {"a": "own.safetensors"},
            "ranking": [{"source": "a"}], "entries": [],
            "verdicts": [
                {"source": "a", "tensor": x["tensor"], "final": False, "reusable": True, "effect": True} for x in layers
            ],
        })
    )  # fmt: skip
    return tmp_path


def refused(capsys, *command):
    """The one line that a command ends with."""
    try:
        status = main([str(part) for part in command])
    except SystemExit as e:
        status = e.code
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if line.startswith("error: ")]
    assert status == FIX, said
    assert len(lines) == 1 and "Traceback" not in said.err, said.err
    assert said.err.endswith(lines[0] + "\n")
    return lines[0]


WARM = ["warmstart", "own.safetensors"]
SWEEP = ["sweep", "own.safetensors", "other.pth", "--data", "d.npz", "--threads", "1"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ([*WARM, "--advice", "warm.json", "--out", "warm.safetensors"], "--out: warm.json would be overwritten"),
        ([*WARM, "--source", "other.pth", "--out", "warm.json"], "--out: warm.json: must end in .safetensors"),
        ([*WARM, "--source", "other.pth", "--out", "own.safetensors"], "--out: own.safetensors would be overwritten"),
        ([*WARM, "--source", "link.safetensors", "--out", "hard.safetensors"], "hard.safetensors would be overwritten"),
        ([*WARM, "--advice", "advice.json", "--out", "own.safetensors"], "own.safetensors would be overwritten"),
        (
            ["warmstart", *NETWORK, "--advice", "advice.json", "--out", "own.safetensors"],
            "own.safetensors would",
        ),
        ([*SWEEP, "--table", "d.npz"], "--table: d.npz: must end in .csv"),
        ([*SWEEP, "--figure", "x.bmp"], "--figure: x.bmp: must end in .png or .svg or .pdf"),
        ([*SWEEP, "--table", "set"], "--table: set: must end in .csv"),
        ([*SWEEP, "--table", "x.csv/y.csv"], "--table: x.csv/y.csv: nothing can be written in"),
        ([*SWEEP, "--table", "folder.csv"], "--table: folder.csv is a folder; name a file"),
        ([*SWEEP, "--table", "x" * 300 + ".csv"], "choose another"),
        (
            ["advise", "own.safetensors", "other.pth", "--data", "set", "--size", "16", "--out", "set/dataset.json"],
            "--out: set/dataset.json would be overwritten, but is an input",
        ),
        (
            ["train", *NETWORK, "--data", "d.npz", "--start", "own.safetensors", "--out", "own.safetensors"],
            "--out: own.safetensors would be overwritten",
        ),
        (
            ["train", *NETWORK, "--data", "d.npz", "--freeze", "x.json", "--out", "x.safetensors"],
            "--out: x.json would be",
        ),
    ],
)
def test_an_output_overwrites_no_input(folder, capsys, command, expected):
    Path("warm.json").write_text(Path("advice.json").read_text())
    Path("x.json").write_text('{"reused": []}')
    Path("x.csv").touch()
    Path("folder.csv").mkdir()
    os.link("own.safetensors", "hard.safetensors")
    Path("link.safetensors").symlink_to("own.safetensors")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert expected in refused(capsys, *command)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_the_library_overwrites_no_input_either(folder):
    network = build("unet", width=2)
    with pytest.raises(InputError, match=r"own\.safetensors would be overwritten"):
        api.warmstart(network, "own.safetensors", inventory(network), "own.safetensors")
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        api.warmstart(network, "own.safetensors", inventory(network), "w.json")


# --- code that params.yaml and --network name ---

OUTSIDE = ["os:system", "os:mkdir", "runpy:run_path", "torch.hub:load", "torch:load", "monai.bundle:load", "mine:Net"]
INSIDE = [
    "torch.nn:modules.module.functools.partial",
    "torch.nn:Module.__init__.__globals__",
    "torchvision.models:resnet.partial",
    "timm.models:load_state_dict",
    "torchvision.models:list_models",
]


@pytest.mark.parametrize("spec", [*OUTSIDE, *INSIDE])
def test_code_of_others_is_not_run_without_consent(spec, tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    (tmp_path / "mine.py").write_text(f"import pathlib\npathlib.Path({str(marker)!r}).touch()\nNet = None\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="is of none of the packages that are known") as e:
        build_network(spec, {"path": str(marker)})
    assert "\n" not in str(e.value)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("torchvision.models:resnet18", {"num_classes": 2}),
        ("torchvision.models:get_model", {"name": "resnet18"}),
        ("torch.nn:Conv2d", {"in_channels": 1, "out_channels": 2, "kernel_size": 3}),
        ("prrmse.nets.unet:UNet", {"width": 2}),
    ],
)
def test_known_networks_need_no_consent(spec, arguments):
    assert inventory(build_network(spec, arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        {"model_name": "resnet18", "checkpoint_path": "evil.pth"},
        {"model_name": "resnet18", "pretrained": True, "pretrained_cfg_overlay": {"file": "evil.pth"}},
        {"model_name": "resnet18", "pretrained": True, "pretrained_cfg": {"file": "evil.pth"}},
        {"model_name": "local-dir:evil", "pretrained": True},
        {"model_name": "hf-hub:somebody/evil", "pretrained": True},
    ],
)
def test_a_pickle_is_not_opened_through_an_argument(arguments):
    with pytest.raises(InputError, match="known"):
        build_network("timm:create_model", arguments)


def test_a_file_that_names_another_to_open_is_not_rebuilt_whoever_is_trusted(tmp_path):
    header = {"factory": "timm:create_model", "arguments": {"model_name": "resnet18", "checkpoint_path": "evil.pth"}}
    network = build_network("timm:create_model", {"model_name": "test_resnet"})
    header |= {"net": "mine", "layers": [layer._asdict() for layer in inventory(network)]}
    save_checkpoint(network, tmp_path / "a.safetensors", header)
    with pytest.raises(InputError, match="open another file"):
        load_network(tmp_path / "a.safetensors", "timm:create_model", trust=True)


def with_factory(**spec):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["nets"]["mine"] = {"out_channels": 4, **spec}
    return params


def test_a_check_runs_no_code_of_others_even_with_consent(tmp_path, capsys, monkeypatch):
    marker = tmp_path / "ran"
    path = tmp_path / "p.yaml"
    monkeypatch.chdir(ROOT)
    for trust in (False, True):
        spec = {"factory": "os:mkdir", "arguments": {"path": str(marker)}, "trust": trust}
        path.write_text(yaml.safe_dump(with_factory(**spec)))
        if trust:
            assert main(["check", str(path)]) == 0
            assert "nets.mine: os:mkdir was not built" in capsys.readouterr().out
        else:
            assert "trust it by nets.mine.trust: true" in refused(capsys, "check", path)
        assert not marker.exists()
    params = check_params(with_factory(factory="os:mkdir", arguments={"path": str(marker)}, trust=True))
    with pytest.raises(InputError, match="gives a NoneType"):
        check_networks(params)
    assert marker.exists(), "with consent the workflow runs it"


def test_a_command_runs_no_code_of_others_without_consent(folder, capsys):
    line = refused(capsys, *SWEEP, "--network", "os:mkdir", "--arguments", '{"path": "ran"}')
    assert "trust it by --trust" in line
    assert not Path("ran").exists()
    assert "gives a NoneType" in refused(
        capsys, *SWEEP, "--trust", "--network", "os:mkdir", "--arguments", '{"path": "ran"}'
    )
    assert Path("ran").exists()


# --- settings ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: &a [x]\nb: &b [" + "*a," * 9 + "]\n", None),
        ("\n".join(f"x{i}: &x{i} [{','.join([f'*x{i - 1}' if i else 'y'] * 10)}]" for i in range(9)), "100000 values"),
        ("seeds: &x [*x]", "one in itself"),
        ("seeds: " + "[" * 3000, "not valid YAML"),
        ("seeds: [" + "1," * 600_000 + "1]", "more than the 262144"),
        ("? [1]\n: 2", "a key that is no text"),
        ("init: !!timestamp x", "not valid YAML"),
        ("init: 2026-02-30", "not valid YAML"),
        ("init: !!python/object/apply:os.system ['x']", "not valid YAML"),
        ("seeds: [1" + "0" * 5000 + "]", "p.yaml"),
    ],
)
def test_yaml_that_asks_for_much_or_is_none(tmp_path, text, expected):
    path = tmp_path / "p.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("seeds:", "seed_s:", 1) + "\n" + text)
    with pytest.raises(InputError) as e:
        read_params(path)
    assert expected is None or expected in str(e.value)
    assert "p.yaml" in str(e.value) and "\n" not in str(e.value)


@pytest.mark.parametrize("root", ["data/phantom/acdc", "./data/phantom/acdc/", "data/phantom/acdc/in", "data/phantom"])
def test_a_phantom_shares_its_folder_with_nobody(root):
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for phantom in (params["datasets"]["t1"]["phantom"], None):
        params["datasets"]["t1"] |= {"root": root, "phantom": phantom}
        with pytest.raises(InputError, match=r"datasets\.t1\.root: .* phantom acdc"):
            check_params(params)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--spacing", "-1"], "--spacing"),
        (["--spacing", "nan"], "--spacing"),
        (["--spacing", "3"], "--spacing: d.npz was processed with 1.5"),
        (["--size", "32"], "--size: d.npz was processed with 16"),
        (["--size", "17"], "--size"),
        (["--threads", "0"], "--threads"),
        (["--batch", "0"], "--batch"),
        (["--tolerance", "nan"], "--tolerance"),
        (["--memory-mb", "nan"], "--memory-mb"),
        (["--memory-mb", "-1"], "--memory-mb"),
        (["--format", "bmp"], "--format"),
        (["--device", "tpu"], "--device: invalid choice"),
        (["--no-such-option"], "unrecognized arguments: --no-such-option; see prrmse"),
        (["--data", "a\0b"], "--data"),
    ],
)
def test_options_that_mean_nothing(folder, capsys, options, expected):
    assert expected in refused(capsys, *SWEEP, *options)


@pytest.mark.parametrize("samples", ["0", "-1"])
def test_a_training_needs_patients(folder, capsys, samples):
    command = ["train", *NETWORK, "--data", "d.npz", "--steps", "1", "--out", "x.safetensors", "--samples", samples]
    assert f"--samples: {samples} training patients" in refused(capsys, *command)


def test_an_untrained_target_and_a_single_patient_are_told(folder, caplog, capsys):
    network = build("unet", width=2).eval()
    slices = Slices(
        np.zeros((1, 16, 16), np.float32),
        np.full((1, 16, 16), 3, np.uint8),
        pd.DataFrame({"patient": ["a"], "frame": "1", "slice": 0, "split": "val"}),
        {"dataset": "d", "classes": {"1": "a", "2": "b", "3": "c"}, "spacing_mm": 1.0, "provenance": "synthetic"},
    )
    with torch.no_grad():
        network.outc.bias[:] = torch.tensor([9.0, 0, 0, 0])
    evaluation = Evaluation(slices, Compute(device="cpu"), 4, 1)
    assert api.advise(network, {"a": network.state_dict()}, evaluation).baseline == 0
    assert "one patient only" in caplog.text
    save_slices(slices, "weak.npz")
    save_checkpoint(network, "weak.safetensors", {"net": "unet", "arguments": {"width": 2}})
    save_file(network.state_dict(), "other.safetensors")
    main(["advise", "weak.safetensors", "other.safetensors", "--data", "weak.npz"])
    said = "The target's own Dice is 0.000, at most twice the tolerance of 0.05: nearly every pair counts as reusable"
    assert capsys.readouterr().out.startswith(said)
    main(["sweep", "weak.safetensors", "other.safetensors", "--data", "weak.npz", "--json"])
    assert said in caplog.text


def test_a_target_hardly_better_than_the_tolerance_counts_as_untrained(folder, caplog, capsys):
    command = ["own.safetensors", "other.pth", "--data", "d.npz", "--threads", "1", "--device", "cpu", "--tolerance"]
    dice = api.advise(
        load_network("own.safetensors")[0],
        {"other": "other.pth"},
        api.evaluation_for(load_network("own.safetensors")[0], api.part_of(load_slices("d.npz"), "val")),
    ).baseline
    assert dice > 0
    for share, told in ((0.45, False), (0.55, True), (0.9, True)):
        caplog.clear()
        assert main(["sweep", *command, str(share * dice), "--json"]) == 0
        assert ("Train the target first" in caplog.text) == told
        capsys.readouterr()
        assert main(["advise", *command, str(share * dice)]) == 0
        assert ("Train the target first" in capsys.readouterr().out) == told


WIDER = ["--network", "unet", "--arguments", '{"width": 3}']
CLASSIFIER = ["--network", "torchvision.models:shufflenet_v2_x0_5", "--arguments", '{"num_classes": 4}']


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (
            ["warmstart", *WIDER, "--advice", "advice.json", "--out", "w.safetensors"],
            "does not fit unet, though advice",
        ),
        (["warmstart", *WIDER, "--source", "other.pth", "--out", "w.safetensors"], "no pair is left to take into unet"),
        (
            ["evaluate", "classifier.pth", *CLASSIFIER, "--data", "d.npz", "--threads", "1"],
            "ShuffleNetV2: makes (1, 4) of a slice (1, 3, 16, 16); Dice needs a score for each class and pixel",
        ),
        (
            ["train", *CLASSIFIER, "--data", "d.npz", "--threads", "1", "--out", "w.safetensors"],
            "ShuffleNetV2: makes (1, 4) of a slice",
        ),
        (["evaluate", "none.safetensors", "--data", "d.npz"], "none.safetensors: no such file; name a checkpoint"),
        (["evaluate", "own.safetensors", "--data", "nowhere"], "--data: nowhere does not exist; name the folder of"),
        (
            ["evaluate", "own.safetensors", "--data", "set", "--case-pattern", "(?P<patient>p)"],
            "--case-pattern: the cases ",
        ),
        (["advise", "own.safetensors", "strange.pth", "--data", "d.npz"], "strange: nothing in them fits own"),
    ],
)
def test_what_does_not_go_together_is_said(folder, capsys, command, expected):
    torch.save(build_network(CLASSIFIER[1], {"num_classes": 4}).state_dict(), "classifier.pth")
    torch.save({"fc.weight": torch.ones(2, 2)}, "strange.pth")
    assert expected in refused(capsys, *command)
    assert not Path("w.safetensors").exists()


def test_what_does_not_fit_is_left_out_of_the_advice_and_how_long_it_takes_is_told(folder, capsys, caplog, monkeypatch):
    torch.save({"fc.weight": torch.ones(2, 2)}, "strange.pth")
    monkeypatch.setattr("prrmse.cli.commands.LONG", 0)
    caplog.set_level("INFO")
    command = ["advise", "own.safetensors", "other.pth", "strange.pth", "--data", "d.npz", "--threads", "1", "--json"]
    assert main(command) == 0
    assert [row["source"] for row in json.loads(capsys.readouterr().out)["ranking"]] == ["other"]
    assert "strange: nothing in it fits own.safetensors, so it is left out" in caplog.text
    assert "110 swaps on 2 slices: up to " in caplog.text
    assert re.search(r"other: swept in \d+ s; the last", caplog.text)
    assert [in_words(seconds) for seconds in (41, 130, 9000)] == ["41 s", "2 min", "2.5 h"]


def test_a_file_without_pairs_is_said_in_one_line(folder, capsys):
    torch.save({"fc.weight": torch.ones(2, 2)}, "strange.pth")
    assert main(["inspect", "strange.pth"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "0 pairs of kind and layer, 0 scalars."
    assert lines[2].startswith("4 scalars in 1 tensors have no kind") and len(lines) == 3


def test_names_in_the_place_of_classes_are_told(folder, capsys):
    sizes = {"input_channels": 1, "n_stages": 2, "features_per_stage": 4, "kernel_sizes": 3, "strides": [1, 2]}
    sizes |= {"n_conv_per_stage": 1, "num_classes": 2, "n_conv_per_stage_decoder": 1}
    names = {"conv_op": "torch.nn.modules.conv.Conv2d", "norm_op": "torch.nn.BatchNorm2d"}
    network = ["--network", "dynamic_network_architectures.architectures.unet:PlainConvUNet", "--arguments"]
    assert main(["train", *network, json.dumps({**sizes, **names}), "--data", "d.npz", "--out", "x.safetensors"]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "issubclass() arg 1 must be a class; conv_op, norm_op: a class is wanted, which cannot be named here" in said
    assert "--nnunet-plans" in said
    # A text is one of the types that timm takes, so that is not what is wrong.
    network = ["--network", "timm.models.vision_transformer:VisionTransformer", "--arguments"]
    wrong = json.dumps({"norm_layer": "layernorm", "image_size": 64})
    assert main(["train", *network, wrong, "--data", "d.npz", "--out", "x.safetensors"]) == 2
    said = capsys.readouterr().err
    assert "unexpected keyword argument 'image_size'; it takes" in said and "a class is wanted" not in said
    network = ["--network", "dynamic_network_architectures.architectures.unet:PlainConvUNet", "--arguments"]
    assert main(["train", *network, json.dumps(sizes), "--data", "d.npz", "--out", "x.safetensors"]) == 2
    assert "missing 1 required positional argument: 'conv_op'; it takes" in capsys.readouterr().err


def test_parameters_that_no_pair_has_are_told_by_every_command(folder, caplog, capsys):
    network = ["--network", "monai.networks.nets:UNet", "--arguments"]
    sizes = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "channels": [2, 4], "strides": [2]}
    measured = [*network, json.dumps(sizes), "--data", "d.npz", "--threads", "1", "--device", "cpu"]
    for name in ("a.pth", "b.pth"):  # their slopes of PReLU are in no pair
        torch.save(build_network(network[1], sizes).state_dict(), name)
    commands = {
        "no distance is of them": ["compare", "a.pth", "b.pth", "--json"],
        "they stay the target's own": ["sweep", "a.pth", "b.pth", *measured, "--tolerance", "0"],
        "the start has the network's own": ["warmstart", "a.pth", "--source", "b.pth", *network, json.dumps(sizes)],
    }
    commands["the start has the network's own"] += ["--out", "w.safetensors"]
    for meaning, command in commands.items():
        caplog.clear()
        assert main(command) == 0
        (said,) = [record.getMessage() for record in caplog.records if "in no pair" in record.getMessage()]
        assert re.fullmatch(
            rf"2 scalars in 2 tensors have no kind, so are in no pair \(model.*, ...\): {meaning}", said
        )
    caplog.clear()
    torch.save(build_network(network[1], sizes).state_dict(), "c.pth")
    capsys.readouterr()
    assert main(["advise", "a.pth", "b.pth", "c.pth", *measured, "--tolerance", "0"]) == 0
    assert caplog.text.count("2 scalars in 2 tensors have no kind") == 1
    assert "of its parameters in pairs can be taken" in capsys.readouterr().out
    caplog.clear()
    assert main(["compare", "own.safetensors", "other.pth"]) == 0
    assert "no kind" not in caplog.text


def test_a_network_in_the_working_folder_is_found_where_it_is_trusted(folder, capsys, monkeypatch):
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    Path("nets_of_a_test.py").write_text(
        "from prrmse.nets.unet import UNet\n\ndef small():\n    return UNet(width=2)\n"
    )
    command = ["warmstart", "--network", "nets_of_a_test:small", "--source", "other.pth", "--out", "w.safetensors"]
    assert "trust it by --trust" in refused(capsys, *command)
    assert "nets_of_a_test" not in sys.modules
    assert main([*command, "--trust"]) == 0
    assert sys.path[-1] == str(folder), "last, so that it hides no package"
    sys.path.pop()
    assert main(["warmstart", *NETWORK, "--source", "other.pth", "--out", "w.safetensors", "--trust"]) == 0
    assert str(folder) not in sys.path, "nothing here is meant"
    assert "108 pairs from other.pth" in capsys.readouterr().out


# --- headers of our own checkpoints ---


def rewritten(change):
    """``own.safetensors`` with a changed header."""
    header = read_header("own.safetensors")
    change(header)
    save_file(load_file("own.safetensors"), "bad.safetensors", metadata={"prrmse": json.dumps(header)})


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h["arguments"].update(width=20_000),
        lambda h: h["arguments"].update(width=2**40),
        lambda h: h["arguments"].update(width="2"),
        lambda h: h["arguments"].update(depth=3),
        lambda h: h.update(arguments=[]),
        lambda h: h.update(arguments={"width": 3}),
        lambda h: h.update(net="vnet"),
        lambda h: h.update(net=["unet"]),
        lambda h: h.pop("net"),
        lambda h: h.update(names={"absent": ["x"]}),
        lambda h: h.update(names=[1]),
    ],
)
def test_a_header_that_fits_no_network(folder, change):
    rewritten(change)
    with pytest.raises(InputError, match=r"bad\.safetensors: ") as e:
        load_network("bad.safetensors")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    "layers",
    [3, [{"kind": "W"}], None, [{"kind": "W", "layer": 1, "module": "", "tensor": "no", "scalars": 1, "final": False}]],
)
def test_a_header_that_lists_other_layers(folder, capsys, layers):
    rewritten(lambda h: h.update(layers=layers))
    assert "bad.safetensors: its header" in refused(capsys, "inspect", "bad.safetensors")


@pytest.mark.parametrize("read", [load_network, read_header, read_table, read_manifest])
def test_a_pipe_is_not_waited_for(tmp_path, read):
    path = tmp_path / "results" / "manifest.json"
    path.parent.mkdir()
    os.mkfifo(path)
    with pytest.raises(InputError, match=r"manifest\.json"):
        read(tmp_path if read is read_manifest else path)


@pytest.mark.parametrize("content", [b"", b"a,b\n\x86,1\n", b"a,b\n1,2,3\n4,5,6,7\n", b'a,b\n"1,2\n'])
def test_a_table_that_is_none(tmp_path, content):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"a\.csv: not a complete table"):
        read_table(path)


# --- what nobody foresaw ---


def failing(error):
    def act():
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "x", "a/b"), "a/b: No space left on device; free some space"),
        (OSError(errno.ENOSPC, "x"), "a file: No space left on device"),
        (RuntimeError("io: x (os error 28)"), "No space left on device"),
        (PermissionError(errno.EACCES, "x", "a/b"), "a/b: Permission denied; check its owner"),
        (FileNotFoundError(errno.ENOENT, "x", "a/b"), "a/b: No such file or directory"),
        (MemoryError(), "out of memory; close other programs, choose a smaller --batch"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you"), "out of memory"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "out of memory"),
        (InputError("<size>: two\nlines"), r"--size: two\nlines"),
        (InputError("x" * 5000), "xxx ... xxx"),
    ],
)
def test_disk_and_memory_have_lines_of_their_own(capsys, error, expected):
    names = {"evaluation_batch_size": "--batch", "size": "--size", "memory_mb": "--memory-mb"}
    assert exit_status(failing(error), names) == FIX
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and len(said) < 1100
    assert expected in said


def test_a_defect_is_one_line_and_its_traceback_is_kept(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.delenv(DEBUG, raising=False)
    assert exit_status(failing(KeyError("a\nb")), {}) == DEFECT
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("error: a defect of prrmse, not yours: KeyError: ")
    (kept,) = tmp_path.iterdir()
    assert str(kept) in said and "Traceback" in kept.read_text() and "act()" in kept.read_text()
    assert kept.stat().st_mode & 0o077 == 0
    monkeypatch.setenv(DEBUG, "1")
    assert exit_status(failing(KeyError("a")), {}) == DEFECT
    assert "Traceback" in capsys.readouterr().err


def test_a_job_ends_in_one_line_too(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(
        '"""x"""\nfrom prrmse.run.job import run\n\n\ndef main(a):\n    raise KeyError("odd")\n\n\nrun(main, "x")\n'
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run([sys.executable, script, "--x", "1"], capture_output=True, text=True, env=environment)
    assert done.returncode == DEFECT
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("error: a defect of prrmse")


# --- names from data sets in texts ---


def test_names_of_classes_are_escaped():
    names = ["<script>alert(1)</script>", r"\input{/etc/passwd}", "a|b", "![x](http://y)", "`c`", "d\ne", "0.1 < 0.2"]
    rows = [
        {"net": "unet", "samples": 2, "arm": "scratch", "source": "none", "seed": 0, "n_train": 2, "class": name}
        for name in ["background", *names, "mean", "mean_with_background"]
    ]
    transfer = pd.DataFrame(rows).assign(dice=0.5, n_patients=2)
    data = pd.DataFrame({"provenance": ["real"]})
    markdown, latex = transfer_markdown(transfer, data), transfer_latex(transfer, data)
    assert r"\input{" not in latex and r"\textbackslash input\{" in latex
    assert "\\<script>" in markdown and "!\\[x](" in markdown and r"\`c\`" in markdown and "0.1 < 0.2" in markdown
    header, rule = markdown.splitlines()[:2]
    assert header.replace(r"\|", "").count("|") == rule.count("|") > len(names)
