"""`--use-conda` without conda's channels: a stand-in client over py-rattler, and a channel on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from tiny import ROOT, Folder, rules

CONDA = Path(__file__).parent / "conda"

pytestmark = pytest.mark.workflow
pytest.importorskip("rattler")


class WithConda(Folder):
    """A folder whose rules run in environments made from a channel on disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        channels = path.parent / "channels"
        subprocess.run([sys.executable, CONDA / "make_channel.py", channels / "local", sys.executable], check=True)
        self.extra = {
            "CONDA_CHANNEL_ALIAS": channels.as_uri(),
            "CONDA_PKGS_DIRS": str(path.parent / "packages"),
            "PRRMSE_WARM": "0",
        }

    @property
    def environment(self) -> dict[str, str]:
        own = super().environment
        return {**own, **self.extra, "PATH": f"{CONDA / 'bin'}:{own['PATH']}"}


def test_every_rule_declares_its_environment():
    with_jobs = [rule for rule in rules() if rule.shellcmd]
    assert len(with_jobs) > 20
    assert {rule.conda_env for rule in with_jobs} == {"../../environment.yml"}


@pytest.mark.parametrize("pinned", [False, True])
def test_rules_run_in_the_environment_that_conda_builds(tmp_path, pinned):
    folder = WithConda(tmp_path / "main")
    wanted = {"channels": ["local", "nodefaults"], "dependencies": ["python", "feasdemo >=1.0"]}
    (folder.path / "environment.yml").write_text(yaml.safe_dump(wanted))
    if pinned:
        packages = sorted((tmp_path / "channels/local").rglob("*.tar.bz2"))
        lines = ["@EXPLICIT", *(package.as_uri() for package in packages)]
        (folder.path / "environment.linux-64.pin.txt").write_text("\n".join(lines) + "\n")
    printed = folder.must("snakemake", "--cores", "2", "--use-conda", "data/processed/t1.npz")
    assert "Creating conda environment" in printed
    assert ("Using pinnings from" in printed) == pinned
    assert "Failed to install" not in printed
    assert (folder.path / "data/processed/t1.npz").stat().st_size > 1000
    (prefix,) = [path for path in (folder.path / ".snakemake/conda").iterdir() if path.is_dir()]
    history = {path.name.rsplit("-", 2)[0] for path in (prefix / "conda-meta").glob("*.json")}
    assert {"python", "feasdemo"} <= history
    # The rule's interpreter was this environment's.
    log = folder.must(
        "snakemake", "--cores", "1", "--use-conda", "--forcerun", "prepare", "-p", "data/processed/t1.npz"
    )
    assert f"Activating conda environment: {os.path.relpath(prefix, folder.path)}" in log


def test_the_pinned_environment_takes_the_tested_set():
    spec = yaml.safe_load((ROOT / "environment.pinned.yml").read_text())
    assert {"pip": ["-r requirements.txt"]} in spec["dependencies"]
    pinned = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if "==" in line]
    names = {line.split("==")[0].split("[")[0] for line in pinned}
    conda = {str(d).split()[0] for d in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]}
    other = {"pytorch": "torch", "matplotlib-base": "matplotlib", "seaborn-base": "seaborn"}
    other |= {"snakemake-minimal": "snakemake", "ruamel.yaml": "ruamel-yaml"}
    assert {other.get(name, name) for name in conda} - {"python"} <= names
