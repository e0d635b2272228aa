"""How rules hand their arguments to scripts, whatever is in them and however many they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pandas as pd
import pytest
from tables import PATIENTS
from tiny import AFTER_DATA, ROOT, Folder, parameters

from prrmse.config.params import completed, section
from prrmse.names import OTHER_INIT
from prrmse.nets.build import build
from prrmse.nets.checkpoint import save_checkpoint
from prrmse.phantom.cohort import generate

RULES = """
import json

include: "workflow/rules/package.smk"
configfile: "params.yaml"
include: "workflow/rules/common.smk"

rule one:
    input:
        none=[],
        many=json.load(open("names.json")),
    output: "one.json"
    params: json=parameters("datasets.acdc", "init")
    log: "one.log"
    shell:
        "python echo.py --params {params.json:q} --out {output:q} --source {input.none:q}"
        " --many @<(lines {input.many:q}) 2>&1 | tee {log:q}"
"""
ECHO = """
import json
from pathlib import Path
from prrmse.config.params import plain
from prrmse.run.job import run

def main(a):
    Path(a.out).write_text(json.dumps([plain(a.params), a.source, a.many]))

run(main, "params", "out", optional=["source"], lists=["many"])
"""


def echoed(folder: Folder, many: list[str]) -> list:
    """What a script gets of a rule's parameters, of an input that is not there, and of a list of inputs."""
    (folder.path / "names.json").write_text(json.dumps(many))
    (folder.path / "Snakefile").write_text(RULES)
    (folder.path / "echo.py").write_text(ECHO)
    folder.must("snakemake", "--cores", "1", "one.json")
    return json.loads((folder.path / "one.json").read_text())


def test_braces_quotes_and_spaces_arrive_as_they_are(tmp_path):
    folder = Folder(tmp_path)
    pattern = r"heart_(?P<patient>\d{3})_it's \"{init}\" $HOME"
    folder.change("datasets.acdc.case_pattern", pattern)
    names = ["a b.csv", "it's.csv", "$HOME.csv", "{.csv"]
    for name in names:
        (tmp_path / name).touch()
    params, source, many = echoed(folder, names)
    assert params["datasets.acdc"]["case_pattern"] == pattern
    assert params["init"] == "shared"
    assert source is None
    assert many == names


def test_3000_names_longer_than_a_command_line_arrive(tmp_path):
    folder = Folder(tmp_path / "run")
    deep = "/".join([letter * 240 for letter in "abc"])
    (folder.path / deep).mkdir(parents=True)
    names = [f"{deep}/{i}.csv" for i in range(3000)]
    assert sum(map(len, names)) > os.sysconf("SC_ARG_MAX")
    for name in names:
        (folder.path / name).touch()
    assert echoed(folder, names)[2] == names


def test_a_list_without_a_name_arrives_as_one(tmp_path):
    """As of a study without recipes, whose last job got the one empty name of an empty line."""
    assert echoed(Folder(tmp_path / "run"), [])[2] == []


def test_a_raw_file_that_snakemake_takes_for_a_wildcard_is_named(tmp_path):
    folder = Folder(tmp_path)
    generate("acdc", tmp_path / "a{b}", patients=2, seed=0)
    folder.change("datasets.acdc.phantom", None)
    folder.change("datasets.acdc.root", "a{b}")
    done = folder.snakemake("--dry-run", "data/processed/acdc.npz")
    assert done.returncode != 0
    assert "error: datasets.acdc.root: a{b}/" in done.stdout
    assert "Snakemake takes braces in a name for a wildcard; rename the file" in done.stdout


def test_options_of_a_phantom_reach_it_and_a_change_of_them_draws_it_anew(tmp_path):
    folder = Folder(tmp_path / "run")
    folder.change("datasets.t1.phantom.options", {"snr": 9.0})
    folder.must("snakemake", "--cores", "1", "data/phantom/t1.sha256")
    assert "- snr: 9.0\n" in (folder.path / "data/phantom/t1/PHANTOM.md").read_text()
    folder.change("datasets.t1.phantom.options", {"snr": 8.0})
    assert folder.planned("data/phantom/t1.sha256") == {"phantom": 1}


def test_another_way_to_match_the_tensors_of_a_file_is_another_training(tmp_path):
    weights, mapping = tmp_path / "weights.pt", tmp_path / "names.json"
    weights.touch()
    mapping.write_text('{"a": "b"}')
    params = parameters()
    params["nets"]["pspnet"]["pretrained"] = {"file": str(weights), "match": str(mapping)}

    def named() -> str:
        return section(completed(params), "nets.pspnet")

    first = named()
    assert named() == first
    mapping.write_text('{"a": "c"}')
    assert named() != first


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / f"workflow/scripts/{name}.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)


@pytest.mark.parametrize("name", ["bn_shift", "rmse"])
def test_a_damaged_checkpoint_is_one_line_and_status_2(tmp_path, name):
    network = build("unet", width=4)
    path = tmp_path / "good.safetensors"
    save_checkpoint(network, path, {"net": "unet", "model": "a-seg", "seed": 0, "layers": []})
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(path.read_bytes()[:-100])
    lists = ["--targets", path, "--sources", damaged] if name == "bn_shift" else ["--checkpoints", path, damaged]
    done = script(name, "--table", tmp_path / "table.csv", *lists)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {damaged}: ")
    assert done.stderr.count("\n") == 1


def test_own_and_other_start_are_told_apart_whatever_networks_are_called(tmp_path):
    """A kernel costs 0.1 under the own start, 0.4 under the other, and a random one 0.5; own differs by network."""
    files: dict[str, list[str]] = {"own": [], "other": []}
    for start, drop in (("own", 0.1), ("other", 0.4)):
        for net in ("independent", "shared"):
            for source in ("t1-seg", "random"):
                rows = pd.DataFrame({"patient": PATIENTS, "class": "mean", "kind": "W", "final": False})
                rows = rows.assign(net=net, source=source, seed=0, baseline=0.9)
                rows["dice"] = 0.9 - (0.5 if source == "random" else drop)
                path = tmp_path / f"{start}/{net}/{source}.csv"
                path.parent.mkdir(parents=True, exist_ok=True)
                rows.to_csv(path, index=False)
                files[start].append(str(path))
    verdict = {"tolerance": 0.05, "rule": "mean", "level": 0.95, "resamples": 100, "rn_fraction": 0.5}
    figures = {"context": "paper", "palette": "colorblind", "dpi": 50}
    params = json.dumps({"verdict": verdict, "figures": figures})
    inits = {"independent": "shared", "shared": "independent"}
    lists = ["--own", *files["own"], "--other", *files["other"]]
    done = script("factorial", "--params", params, "--inits", json.dumps(inits), "--out", tmp_path, *lists)
    assert done.returncode == 0, done.stderr
    cells = pd.read_csv(tmp_path / "factorial.csv").query("source == 'all'").set_index(["net", "init"])["drop"]
    for net, init in inits.items():
        assert cells[net, init] == pytest.approx(0.1)
        assert cells[net, OTHER_INIT[init]] == pytest.approx(0.4)


@pytest.mark.workflow
def test_networks_may_be_called_like_stages_and_folders(tmp_path):
    folder = Folder(tmp_path)
    folder.change("transfer.plan", "verdict")
    params = folder.read()
    factories = {"unet": "prrmse.nets.unet:UNet", "pspnet": "prrmse.nets.pspnet:PSPNet"}
    names = {"unet": "independent", "pspnet": "controls"}
    for net, factory in factories.items():
        spec = params["nets"].pop(net)
        params["nets"][names[net]] = {**spec, "factory": factory, "in_channels": 1, "out_channels": 4}
    params["transfer"]["nets"] = params["evidence"]["nets"] = ["controls"]
    folder.write(params)
    assert folder.planned("all", "evidence") == {"phantom": 2, "prepare": 2, "data_table": 1, **AFTER_DATA}
