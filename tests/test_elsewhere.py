"""The workflow run from where it is not: `--directory`, another folder, a module of another workflow, deployed."""

from __future__ import annotations

import json

import pytest
import yaml
from tiny import Folder, parameters

pytestmark = pytest.mark.workflow
MODULE = """
configfile: "params.yaml"
module prrmse:
    snakefile: "{root}/Snakefile"
    config: config
use rule * from prrmse as prrmse_*
rule count:
    input: "data/processed/t1.npz"
    output: "size.txt"
    shell: "wc -c < {{input}} > {{output}}"
"""
# As snakedeploy writes it.
DEPLOYED = """
configfile: "config/config.yaml"
module prrmse:
    snakefile:
        github("owner/prrmse", path="Snakefile", tag="v1")
    config:
        config
use rule * from prrmse
"""
ELSEWHERE = ["--workflow-profile", "{root}/profiles/default"]
WAYS = {
    "directory": ["--snakefile", "{root}/Snakefile", "--directory", "{here}"],
    "another folder": ["--snakefile", "{root}/Snakefile"],
    "module": ELSEWHERE,
    "deployed": ELSEWHERE,
}
MADE = ["data/phantom/t1.sha256", "data/processed/t1.npz"]


@pytest.fixture(scope="module")
def at_home(tmp_path_factory):
    """The workflow in its own folder, whose name is no plain word, with a tag of a release."""
    folder = Folder(tmp_path_factory.mktemp("at home & 'here'"))
    folder.must("snakemake", "--cores", "2", "data/processed/t1.npz")
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "Release"], ["tag", "v1"]):
        folder.git(*command)
    return folder


@pytest.fixture(scope="module")
def left(at_home):
    """Jobs that are still to be done there."""
    return at_home.planned("all")


@pytest.mark.parametrize("way", WAYS)
def test_the_same_jobs_and_the_same_bytes_wherever_it_is_run(at_home, left, tmp_path, monkeypatch, way):
    folder = Folder.at(tmp_path / "elsewhere")
    folder.path.mkdir()
    folder.write(parameters())
    if way == "module":
        (folder.path / "Snakefile").write_text(MODULE.format(root=at_home.path))
    if way == "deployed":
        for name, text in (("workflow/Snakefile", DEPLOYED), ("config/config.yaml", yaml.safe_dump(parameters()))):
            (folder.path / name).parent.mkdir()
            (folder.path / name).write_text(text)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{at_home.path}.insteadOf")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://github.com/owner/prrmse")
    arguments = [argument.format(root=at_home.path, here=folder.path) for argument in WAYS[way]]
    start = Folder.at(tmp_path) if way == "directory" else folder
    target = "size.txt" if way == "module" else "data/processed/t1.npz"
    start.must("snakemake", "--cores", "2", *arguments, target)
    for name in [*MADE, *(f"results/hashes/{made}.sha256" for made in MADE)]:
        assert (folder.path / name).read_bytes() == (at_home.path / name).read_bytes(), name
    everything = "prrmse_all" if way == "module" else "all"
    planned = {rule.removeprefix("prrmse_"): n for rule, n in start.planned(*arguments, everything).items()}
    planned.pop("all", None)
    assert planned == left, "all but what was just made"


def test_the_manifest_names_the_commit_of_the_workflow_not_of_the_folder(at_home, tmp_path):
    script = "workflow/scripts/manifest.py --params '{\"seeds\": [0]}' --manifest manifest.json --files"
    at_home.must("sh", "-c", f'cd {tmp_path} && python "$OLDPWD"/{script}')
    written = json.loads((tmp_path / "manifest.json").read_text())
    assert written["commit"] == at_home.git("rev-parse", "HEAD").strip()


def test_a_job_that_fails_after_its_files_are_written_fails_the_run(tmp_path):
    folder = Folder(tmp_path / "broken")
    script = folder.path / "workflow/scripts/phantom.py"
    script.write_text(script.read_text() + "raise SystemExit(2)\n")
    assert folder.snakemake("data/phantom/t1.sha256").returncode != 0
    assert not (folder.path / "data/phantom/t1.sha256").exists()
