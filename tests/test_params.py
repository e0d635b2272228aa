"""Parameters: the shipped file is valid, and every mistake is one line that names the key."""

import copy
import json
import os
import re
import time
from pathlib import Path

import pytest
import yaml
from damage import write_nnunet
from jsonschema import Draft202012Validator

from prrmse.config.checks import check_container, check_data, check_networks, check_params
from prrmse.config.params import PARAMETERS, parse_sections, read_params, section
from prrmse.config.reference import schema
from prrmse.data.prepare import check
from prrmse.errors import InputError
from prrmse.names import models
from prrmse.settings import Dataset, Networks, Params, Training, Verdict

ROOT = Path(__file__).parents[1]
DEMO = yaml.safe_load((ROOT / "params.yaml").read_text())


def test_shipped_params_and_configs_are_valid():
    Draft202012Validator.check_schema(schema())
    read_params(ROOT / "params.yaml")
    for path in sorted((ROOT / "configs").glob("*.yaml")):
        first = path.stem.partition("_")[0]
        below = [p for p in sorted((ROOT / "configs").glob(f"{first}*.yaml")) if p <= path]  # study_X lies over study
        params = read_params(ROOT / "params.yaml", *below)
        assert params.datasets["acdc"].phantom is None
        assert params.figures.model_dump() == DEMO["figures"], "keys that are not named stay"
        assert params.verdict.rule == DEMO["verdict"]["rule"], "and those beside one that is named"


def test_every_key_is_described():
    def missing(node, path):
        for name, sub in node.get("properties", {}).items():
            if not (sub.get("description") or sub.get("$ref") or sub.get("properties")):
                yield f"{path}.{name}"
            yield from missing(sub, f"{path}.{name}")

    assert not list(missing(schema(), ""))


def changed(path, value):
    params = copy.deepcopy(DEMO)
    node = params
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    if value is None:
        del node[last]
    else:
        node[last] = value
    return params


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("base.steps", 0, "base.steps"),
        ("base.learning_rate", "1e-3", "write 0.001"),
        ("base.epochs", 3, "base.epochs: unknown key"),
        ("transfer.target", None, "transfer.target: is missing"),
        ("verdict.tolerance", float("nan"), "verdict.tolerance: Input should be a finite number"),
        ("figures.dpi", True, "figures.dpi"),
        ("nets.unet.pretrained", {"path": "resnet18.pth"}, "nets.unet.pretrained"),
        ("transfer.samples", [10, 10], "has an entry twice"),
        ("datasets.t1.root", "data/phantom/acdc", "is that of the phantom acdc"),
        ("datasets.t1.phantom.options", {"nois": 0.1}, "datasets.t1.phantom.options: phantom option 'nois' is unknown"),
        ("datasets.acdc.phantom.options", {"noise": 2}, "datasets.acdc.phantom.options: phantom option noise: 2; give"),
        ("datasets.acdc.size", 50, "multiple of 16"),
        ("seeds", [], "seeds"),
        ("nets.unet.arguments.depth", 3, "nets.unet.arguments"),
        ("swap.sources", {"acdc-auto": ["t1-seg"]}, "no segmentation model"),
        ("swap.sources", {"acdc-seg": ["mars-seg"]}, "unknown model 'mars-seg'"),
        ("transfer.target", "mars-seg", "transfer.target"),
        ("transfer.target", "t1-seg", "no entry in swap.sources"),
        ("transfer.nets", ["unet"], "pspnet only"),
        ("evidence.sources", ["acdc-seg", "t1-seg"], "acdc-seg is the target itself"),
        ("evidence.sources", ["t1-seg", "mars-auto"], "unknown model 'mars-auto'"),
        ("evidence.nets", ["vnet"], "evidence.nets: vnet is not among nets"),
    ],
)
def test_mistakes_are_one_line_that_names_the_key(path, value, expected):
    with pytest.raises(InputError) as e:
        check_params(changed(path, value))
    assert expected in str(e.value)
    assert "\n" not in str(e.value)


def test_verdict_plan_needs_swaps_of_every_source():
    params = changed("transfer.plan", "verdict")
    params["swap"]["sources"]["acdc-seg"] = ["t1-seg"]
    with pytest.raises(InputError, match="needs swap.sources.acdc-seg to list"):
        check_params(params)


def test_missing_or_broken_file(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        read_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_text("a: [1")
    with pytest.raises(InputError, match="not valid YAML"):
        read_params(tmp_path / "params.yaml")


def test_absent_root_names_the_key_and_the_source():
    params = changed("datasets.acdc.root", "nowhere")
    params["datasets"]["acdc"]["phantom"] = None
    with pytest.raises(InputError) as e:
        check_data(check_params(params))
    assert re.match(
        r"datasets\.acdc\.root: nowhere does not exist.*humanheart.*phantom", e.value.message_for(PARAMETERS)
    )


def test_cases_that_a_pattern_does_not_tell_apart_are_named_before_any_is_read(tmp_path):
    root = write_nnunet(tmp_path, ".png", ("mmsA001_ED", "mmsA001_ES", "mmsA002_ED"))
    dataset = Dataset(format="nnunet", root=str(root), case_pattern=r"(?P<patient>mmsA\d+)")
    with pytest.raises(InputError) as e:
        check_data(Params.model_construct(datasets={"mms": dataset}))
    line = e.value.message_for(PARAMETERS)
    assert line.startswith("datasets.mms.case_pattern: the cases mmsA001_ED and mmsA001_ES are both frame 1 of patient")
    assert r"(?P<frame>.+)" in line
    check("mms", dataset.model_copy(update={"case_pattern": r"(?P<patient>mmsA\d+)_(?P<frame>.+)"}))
    check("mms", dataset.model_copy(update={"case_pattern": None}))


@pytest.mark.parametrize("key", ["nets.unet.pretrained", "container"])
def test_a_name_that_no_file_can_have_is_no_such_file(key):
    with pytest.raises(InputError, match=rf"^{key.replace('.', '[.]')}: x+: "):
        params = check_params(changed(key, "x" * 5000))
        check_networks(params)
        check_container(params.container)


def test_data_from_the_future_are_named_before_any_job_reads_them(tmp_path):
    root = write_nnunet(tmp_path, ".png", ("a", "b"))
    dataset = Dataset(format="nnunet", root=str(root))
    params = Params.model_construct(datasets={"mms": dataset}, nets=Networks(unet=None, pspnet=None))
    check_data(params)
    image = sorted((root / "imagesTr").iterdir())[0]
    os.utime(image, (time.time() + 60,) * 2)
    with pytest.raises(InputError, match=rf"^datasets\.mms\.root: {image}: its time is in the future.*touch {image}$"):
        check_data(params)


def test_a_section_is_stable_text_with_defaults_and_comes_back_typed():
    short = {**DEMO, "verdict": {"tolerance": 0.1}, "base": {"steps": 7}}
    text = section(short, "verdict", "base", "nets.unet", "transfer.train.steps", "compute.threads", "seeds")
    assert text == section({**short, "verdict": {"tolerance": 0.1, "level": 0.95}}, *sorted(json.loads(text)))
    assert text != section({**short, "verdict": {"tolerance": 0.1, "level": 0.9}}, *sorted(json.loads(text)))
    found = parse_sections(text)
    assert found["base"] == Training(steps=7)
    assert found["verdict"] == Verdict(tolerance=0.1)
    assert found["nets.unet"].keywords["width"] == 12
    assert (found["compute.threads"], found["seeds"]) == (1, (0, 1))


def test_a_key_that_stands_twice_is_refused(tmp_path):
    (tmp_path / "params.yaml").write_text("base: {steps: 1, steps: 2}\n")
    with pytest.raises(InputError, match="key 'steps' stands twice"):
        read_params(tmp_path / "params.yaml")


def test_models_are_all_data_sets_and_tasks():
    assert models(DEMO["datasets"], DEMO["tasks"]) == [
        "acdc-seg",
        "acdc-auto",
        "t1-seg",
        "t1-auto",
        "rvsc-seg",
        "rvsc-auto",
    ]


@pytest.mark.parametrize(
    ("factory", "expected"),
    [
        ("torch.nn:Nothing", "nets.mine.factory: network torch.nn:Nothing: cannot be imported"),
        ("torch.nn:ReLU", "nets.mine.factory: torch.nn:ReLU has no convolution and no normalisation"),
        ("torch.nn:Conv2d", "nets.mine.factory: network torch.nn:Conv2d: "),
    ],
)
def test_a_network_that_cannot_be_built_is_one_line(factory, expected):
    with pytest.raises(InputError) as e:
        nets = {**DEMO["nets"], "mine": {"factory": factory, "arguments": {}, "out_channels": 4}}
        check_networks(check_params({**DEMO, "nets": nets}))
    assert expected in str(e.value)
