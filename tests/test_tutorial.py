"""The tutorial, run from its own text in a folder where the workflow has run."""

import re
import shlex

import pytest
import torch
import yaml
from tiny import ROOT

TEXT = (ROOT / "docs" / "tutorial.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", TEXT, re.S | re.M)
COMMANDS = [line for language, block in BLOCKS if not language for line in block.strip().splitlines()]
PYTHON = [block for language, block in BLOCKS if language == "python"]


@pytest.mark.workflow
def test_the_tutorial_runs_from_its_own_text(whole_run, tmp_path, monkeypatch):
    folder = whole_run.copy(tmp_path / "work")
    names = [shlex.split(command)[1] for command in COMMANDS]
    assert names == ["inspect", "compare", "sweep", "screen", "advise", "warmstart", "train", "train", "train"]
    for command in COMMANDS:
        smaller = command.replace('"width": 12', '"width": 4').replace("--steps 100", "--steps 2")
        assert folder.must(*shlex.split(smaller)), command
    for made in (
        *("compare.png", "sweep.png", "sweep.csv", "advice.json", "warm.safetensors", "warm.json"),
        *(f"{name}.safetensors" for name in ("scratch", "finetuned", "frozen")),
    ):
        assert (folder.path / "results" / made).stat().st_size > 50, made

    monkeypatch.chdir(folder.path)
    arguments = yaml.safe_load((folder.path / "params.yaml").read_text())["nets"]["unet"]["arguments"]
    image = torch.zeros(1, 1, 32, 32)
    names = {"ARGUMENTS": arguments, "evaluate": torch.no_grad()(lambda model: float(model.eval()(image).mean()))}
    assert len(PYTHON) == 2
    for block in PYTHON:
        exec(block, names)
    assert any(not p.requires_grad for p in names["network"].parameters())
    assert len(names["table"]) == 110
