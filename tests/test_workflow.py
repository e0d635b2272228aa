"""The real snakemake on a tiny configuration: every file of the contract, and nothing computed twice."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

pytestmark = pytest.mark.workflow
ROOT = Path(__file__).parents[1]
COPIED = ["Snakefile", "workflow", "src", "profiles", "params.yaml", "environment.yml"]
COPIED += [".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml"]


def tiny() -> dict:
    """The demo's parameters, made small: two data sets, one seed, two steps."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["seeds"] = [0]
    del params["datasets"]["rvsc"]
    for name, patients in (("acdc", 6), ("t1", 4)):
        spec = params["datasets"][name]
        spec["phantom"]["patients"], spec["size"], spec["max_slices_per_volume"] = patients, 32, 2
        spec["split"] |= {"train": 4, "val": 2} if name == "acdc" else {"train": 2, "val": 2}
    params["nets"]["unet"]["arguments"]["width"] = 4
    params["nets"]["pspnet"]["arguments"] |= {"width": 8, "head_width": 64}
    params["base"]["steps"] = params["transfer"]["train"]["steps"] = 2
    params["swap"]["sources"] = {"acdc-seg": ["acdc-auto", "t1-seg"]}
    params["transfer"] |= {"sources": ["t1-seg"], "samples": [2, 50]}
    params["figures"]["dpi"] = 60
    return params


class Folder:
    """A copy of the workflow in a folder of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                (path / name).parent.mkdir(exist_ok=True)
                shutil.copy(source, path / name)
        self.write(tiny())

    def write(self, params: dict) -> None:
        (self.path / "params.yaml").write_text(yaml.safe_dump(params))

    def change(self, path: str, value: object) -> None:
        params = yaml.safe_load((self.path / "params.yaml").read_text())
        node = params
        *parents, last = path.split(".")
        for key in parents:
            node = node[key]
        node[last] = value
        self.write(params)

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        command = ["snakemake", "--cores", "2", *arguments]
        return subprocess.run(
            command,
            cwd=self.path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )

    def planned(self) -> dict[str, int]:
        """Rule -> number of jobs that a dry run would run."""
        done = self.snakemake("--dry-run")
        assert done.returncode == 0, done.stdout
        table = re.search(r"^job\s+count\n-+\s+-+\n(.*?)^total", done.stdout, re.M | re.S)
        if table is None:
            assert "Nothing to be done" in done.stdout, done.stdout
            return {}
        return {name: int(count) for name, count in (line.split() for line in table[1].strip().splitlines())}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("workflow"))
    done = folder.snakemake()
    assert done.returncode == 0, done.stdout[-6000:]
    return folder


CONTRACT = {
    "base": ["net", "model", "seed", "class", "dice", "mse", "n_patients"],
    "swap": ["net", "target", "source", "seed", "kind", "layer", "module", "class", "dice", "baseline"],
    "rmse": ["net", "model_a", "model_b", "seed", "kind", "layer", "module", "rmse"],
    "bn_shift": ["net", "target", "source", "seed", "layer", "module", "mrm", "mrv", "mrw", "mrb", "mrm_abs"],
    "verdict": ["net", "target", "source", "kind", "layer", "module", "reusable", "drop", "drop_low", "drop_high"],
    "network": ["net", "target", "source", "is_rn", "fraction_pairs", "fraction_scalars"],
    "transfer": ["net", "samples", "arm", "source", "seed", "class", "dice"],
    "claims": ["claim", "text", "answer", "statistic"],
    "data": ["dataset", "provenance", "split", "patients", "slices", "class", "pixel_fraction"],
}


def test_every_file_of_the_contract_is_there_and_not_empty(finished):
    results = finished.path / "results"
    for name, columns in CONTRACT.items():
        table = pd.read_csv(results / "tables" / f"{name}.csv")
        assert len(table), name
        assert set(columns) <= set(table.columns), name
    names = [f"fig{i:02d}" for i in range(3, 13)]
    files = [*(f"figures/{n}.{e}" for n in names for e in ("svg", "png")), "report.html"]
    files += ["tables/transfer.md", "tables/transfer.tex"]
    models = ["acdc-seg", "acdc-auto", "t1-seg", "t1-auto"]
    files += [f"checkpoints/{net}/{model}/seed0.safetensors" for net in ("unet", "pspnet") for model in models]
    for file in files:
        assert (results / file).stat().st_size > 100, file


def test_tables_have_every_pair_of_the_inventory(finished):
    swap = pd.read_csv(finished.path / "results/tables/swap.csv")
    pairs = swap[(swap["class"] == "mean")].groupby(["net", "source"])["module"].size()
    assert pairs["unet"].tolist() == [110, 110]
    assert pairs["pspnet"].tolist() == [126, 126]
    assert set(swap["class"]) == {"background", "RV", "myocardium", "LV", "mean", "mean_with_background"}
    transfer = pd.read_csv(finished.path / "results/tables/transfer.csv", keep_default_na=False)
    assert set(transfer["n_train"]) == {2, 4}, "50 patients were asked, 4 are there"


def test_second_run_does_nothing_even_with_new_file_times(finished):
    assert finished.planned() == {}
    for path in sorted(finished.path.rglob("*.py"), reverse=True):
        path.touch()
    assert finished.planned() == {}


TABLES = {"claims", "figures", "report", "all"}


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("verdict.tolerance", 0.3, {"verdict", *TABLES}),
        ("figures.palette", "Set2", {"figures", "report", "all"}),
        ("transfer.samples", [2, 3, 50], {"transfer", "transfer_table", *TABLES}),
        ("transfer.train.steps", 3, {"transfer", "transfer_table", *TABLES}),
    ],
)
def test_a_change_runs_the_jobs_that_read_it_and_no_other(finished, path, value, expected):
    before = (finished.path / "params.yaml").read_text()
    finished.change(path, value)
    planned = finished.planned()
    (finished.path / "params.yaml").write_text(before)
    assert set(planned) == expected
    if path == "transfer.samples":
        assert planned["transfer"] == 3, "only the new sample size"


def test_one_networks_width_retrains_that_network_only(finished):
    before = (finished.path / "params.yaml").read_text()
    finished.change("nets.unet.arguments.width", 5)
    planned = finished.planned()
    (finished.path / "params.yaml").write_text(before)
    assert (planned["base"], planned["swap"]) == (4, 2)
    assert "transfer" not in planned, "the transfer runs are PSPNet's"


def test_one_data_sets_spacing_retrains_its_models_only(finished):
    before = (finished.path / "params.yaml").read_text()
    finished.change("datasets.t1.spacing_mm", 2.5)
    planned = finished.planned()
    (finished.path / "params.yaml").write_text(before)
    assert planned["prepare"] == 1
    assert planned["base"] == 4, "two tasks of T1 on two networks; ACDC's stay"


def test_bad_params_and_data_are_one_error_before_anything_runs(finished):
    before = (finished.path / "params.yaml").read_text()
    for path, value, message in (
        ("base.steps", 0, "base.steps"),
        ("datasets.acdc.root", "nowhere", "datasets.acdc.root: nowhere does not exist"),
    ):
        finished.change(path, value)
        if path.endswith("root"):
            finished.change("datasets.acdc.phantom", None)
        done = finished.snakemake()
        (finished.path / "params.yaml").write_text(before)
        assert done.returncode != 0
        assert message in done.stdout
        assert "Traceback" not in done.stdout


def test_defect_in_one_data_set_stops_before_any_training(finished, tmp_path):
    folder = Folder(tmp_path)
    folder.snakemake("data/phantom/acdc.sha256", "data/phantom/t1.sha256")
    image = sorted((tmp_path / "data/phantom/acdc").rglob("patient002_frame01.nii.gz"))[0]
    image.write_bytes(image.read_bytes()[:3000])
    done = folder.snakemake()
    assert done.returncode != 0
    assert "patient002_frame01.nii.gz: truncated or not NIfTI" in done.stdout
    assert not (tmp_path / "results/checkpoints").exists(), "a training started"


def test_the_same_run_gives_the_same_bytes(finished, tmp_path):
    folder = Folder(tmp_path)
    target = "results/checkpoints/unet/acdc-seg/seed0.safetensors"
    done = folder.snakemake(target, "results/checkpoints/pspnet/t1-auto/seed0.safetensors")
    assert done.returncode == 0, done.stdout[-3000:]
    for path in sorted(tmp_path.glob("results/checkpoints/*/*/*.safetensors")):
        assert path.read_bytes() == (finished.path / path.relative_to(tmp_path)).read_bytes(), path


def test_push_clone_pull_leaves_nothing_to_do_for_both_tools(finished, tmp_path):
    """`snakemake` first, `dvc commit` after; then a fresh clone elsewhere, with all file times new."""
    store, clone = tmp_path / "store", tmp_path / "clone"

    def run(folder: Path, *command: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"] if command[0] == "git" else []
        command = (command[0], *identity, *command[1:])
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    run(finished.path, "git", "init", "-q", "-b", "main")
    run(finished.path, "dvc", "commit", "-f", "-q")
    run(finished.path, "dvc", "remote", "add", "-d", "store", str(store))
    run(finished.path, "git", "add", "-A")
    run(finished.path, "git", "commit", "-qm", "Run")
    tracked = run(finished.path, "git", "ls-files")
    assert "dvc.lock" in tracked
    assert "results/" not in tracked, "results belong to DVC, not to git"
    run(finished.path, "dvc", "push", "-q")
    run(tmp_path, "git", "clone", "-q", str(finished.path), str(clone))
    run(clone, "dvc", "pull", "-q")
    assert "up to date" in run(clone, "dvc", "status")
    copy = Folder.__new__(Folder)
    copy.path = clone
    assert copy.planned() == {}
    run(clone, "dvc", "repro", "-q")
    assert "up to date" in run(clone, "dvc", "status")
    copy.change("verdict.tolerance", 0.3)
    assert set(copy.planned()) == {"verdict", *TABLES}, "a changed parameter is seen in the clone"
