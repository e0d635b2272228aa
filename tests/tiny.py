"""A copy of the workflow in a folder of its own, on a tiny configuration, run by the real programs."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import yaml
from forked import started

if TYPE_CHECKING:
    from snakemake.rules import Rule

ROOT = Path(__file__).parents[1]
COPIED = ["Snakefile", "workflow", "src", "profiles", "params.yaml", "environment.yml", "LICENSE", "CITATION.cff"]
COPIED += [
    ".dvc/config",
    ".dvc/.gitignore",
    ".dvc/plots",
    ".dvcignore",
    ".gitignore",
    "dvc.yaml",
    "data/raw/README.md",
    "configs",
]


def rules(**config: object) -> list[Rule]:
    """All rules of the workflow, as Snakemake reads them, with these parameters beside those of ``params.yaml``."""
    from snakemake.api import ConfigSettings, ResourceSettings, SnakemakeApi  # takes seconds

    settings = ConfigSettings(config=config)
    with contextlib.chdir(ROOT), SnakemakeApi() as api:
        workflow = api.workflow(
            resource_settings=ResourceSettings(), config_settings=settings, snakefile=Path("Snakefile")
        )
        return list(workflow._workflow.rules)


def parameters() -> dict[str, Any]:
    """The demo's parameters, made small: two data sets, one seed, two steps."""
    params: dict[str, Any] = yaml.safe_load((ROOT / "params.yaml").read_text())
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
    params["evidence"] |= {"sources": ["acdc-auto", "t1-seg"], "samples": 2, "seeds": [0], "pixels": 200}
    params["figures"]["dpi"] = 60
    return params


class Folder:
    """A copy of the workflow in a folder of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, path / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
            else:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, path / name)
        self.write(parameters())

    @classmethod
    def at(cls, path: Path) -> Self:
        """The folder that is there already."""
        folder = cls.__new__(cls)
        folder.path = path
        return folder

    def read(self) -> dict[str, Any]:
        """The folder's parameters."""
        return dict(yaml.safe_load((self.path / "params.yaml").read_text()))

    def write(self, params: dict[str, Any]) -> None:
        (self.path / "params.yaml").write_text(yaml.safe_dump(params))

    def change(self, path: str, value: object) -> None:
        params = self.read()
        node = params
        *parents, last = path.split(".")
        for key in parents:
            node = node[key]
        node[last] = value
        self.write(params)

    def copy(self, path: Path) -> Folder:
        """The same files with the same times elsewhere; the code and environment stay those of the original."""
        shutil.copytree(self.path, path)
        return Folder.at(path)

    def scatter_times(self, rng: random.Random) -> None:
        """Draw every file's time anew, within ten years of now, as a clock that is set back and forth would."""
        for path in self.path.rglob("*"):
            moment = time.time() + rng.uniform(-10, 10) * 365 * 86400
            os.utime(path, (moment, moment), follow_symlinks=False)

    @property
    def environment(self) -> dict[str, str]:
        # The code under test is the folder's own.
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONPATH": str(self.path / "src")}

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in this folder, its two streams as one text."""
        with tempfile.NamedTemporaryFile(mode="r", errors="replace") as log:
            status = started(self, command, Path(log.name)).wait()
            assert status is not None
            return subprocess.CompletedProcess(command, status, log.read())

    def must(self, *command: str) -> str:
        """The output of a command that has to succeed."""
        done = self.run(*command)
        assert done.returncode == 0, f"{command}: {done.stdout[-6000:]}"
        return done.stdout

    def git(self, *arguments: str) -> str:
        return self.must("git", "-c", "user.name=test", "-c", "user.email=test@example.org", *arguments)

    def snakemake(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("snakemake", "--cores", "2", *arguments)

    def pretend(self, *targets: str) -> None:
        """Make every output of these targets a file of one line that counts as made by the workflow as it is now."""
        lines = self.must("snakemake", "--cores", "1", "--summary", *targets).splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("output_file\t"))
        for line in lines[start + 1 :]:
            path = self.path / line.partition("\t")[0]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("\n")
        empty: dict[str, dict[str, str]] = {"environment": {}, "params": {}, "files": {}}
        (self.path / "results/manifest.json").write_text(json.dumps({"commit": None, "changed": None, **empty}))
        self.must("snakemake", "--cores", "1", "--touch", "--forceall", *targets)

    def trainings(self) -> dict[Path, int]:
        """What each finished training of a base model has kept: its record, and when that was written."""
        records = [*self.path.glob(".snakemake/kept/*/files.json")]
        return {record: record.stat().st_mtime_ns for record in records if "results/checkpoints/" in record.read_text()}

    def planned(self, *arguments: str) -> dict[str, int]:
        """Rule -> number of jobs that a dry run would run."""
        printed = self.must("snakemake", "--cores", "2", "--dry-run", *arguments)
        return jobs(printed.rpartition("Job stats:")[2])  # a dry run prints its table twice


# What a change of one parameter re-runs: rule -> number of jobs, on the tiny configuration.
_TABLES = {"claims": 1, "figures": 1, "metrics": 1, "report": 1, "manifest": 1}
_REUSE = {"base_table": 1, "swap_table": 1, "rmse": 1, "bn_shift": 1, "verdict": 1}
CHANGES: list[tuple[str, Any, dict[str, int]]] = [
    ("verdict.tolerance", 0.3, {"verdict": 1, "examples": 2, **_TABLES}),
    ("figures.palette", "Set2", {"figures": 1, "examples": 2, "report": 1, "manifest": 1}),
    ("transfer.samples", [2, 3, 50], {"transfer": 3, "transfer_table": 1, **_TABLES}),
    ("nets.unet.arguments.width", 5, {"base": 4, "swap": 2, "examples": 2, **_REUSE, **_TABLES}),
    (
        "datasets.t1.spacing_mm",
        2.5,
        {
            **{"prepare": 1, "data_table": 1, "base": 4, "swap": 2, "transfer": 4, "transfer_table": 1, "examples": 2},
            **_REUSE,
            **_TABLES,
        },
    ),
]


class Edit(NamedTuple):
    """A change of code, and the jobs that it must plan: rule -> number."""

    what: str
    files: list[str]  # globs
    change: Callable[[str], str]
    jobs: dict[str, int]

    def apply(self, folder: Path) -> dict[Path, str]:
        """Change the files; their texts as they were."""
        originals = {path: path.read_text() for pattern in self.files for path in sorted(folder.glob(pattern))}
        assert len(originals) >= len(self.files), self.files
        for path, text in originals.items():
            path.write_text(self.change(text))
        return originals


def _statement(text: str) -> str:
    """A statement that runs when the module is imported."""
    return f"{text}\nprint()\n"


def _another(name: str) -> Callable[[str], str]:
    """Another definition of a function."""

    def change(text: str) -> str:
        assert f"\ndef {name}(" in text, name
        return f"{text}\n{name} = {name}\n"

    return change


def _comments(text: str) -> str:
    """A comment, another docstring, and another layout."""
    docstring = re.sub(r'"""\n', '""" "Changed."\n\n\n', text, count=1)
    return f"# Changed.\n{docstring}\n# Changed.\n"


def _messages(text: str) -> str:
    """Another text in every error and every log message."""
    return re.sub(r'((?:InputError|log\.\w+)\(\s*f?")', r"\1Changed: ", text)


_PAGES = {"report": 1, "manifest": 1}
_LATE = {"claims": 1, "figures": 1, "metrics": 1, **_PAGES}
_SUMMARIES = {"controls": 1, "joint_table": 1, "screen_table": 1, "factorial": 1, "ranking": 1, "evidence": 1}
_SWEEPS = {
    "swap": 4,
    "screen": 2,
    "joint": 4,
    "control": 18,
    "factorial_swap": 4,
    "factorial_control": 2,
    "transferability": 2,
}
_TRAININGS = {"base": 8, "factorial_base": 6, "transfer": 6, "gain": 6}
# Every job of `snakemake all evidence` but those that make the processed data.
AFTER_DATA = {**_TRAININGS, **_SWEEPS, **_REUSE, "transfer_table": 1, "examples": 2, **_SUMMARIES, **_LATE}
# What a change of code re-runs, `snakemake all evidence`, on the tiny configuration.
EDITS = [
    Edit("comments, docstrings and layout of all files", ["**/*.py"], _comments, {}),
    Edit("the texts of all errors and log messages", ["**/*.py"], _messages, {}),
    Edit("`cli/`, `run/job.py`", ["src/prrmse/cli/*.py", "src/prrmse/run/job.py"], _statement, {}),
    Edit(
        "`figures/swaps.swap_panels`",
        ["src/prrmse/figures/swaps.py"],
        _another("swap_panels"),
        {"figures": 1, **_PAGES},
    ),
    Edit("`report/report.html.j2`", ["src/prrmse/report/report.html.j2"], lambda text: f"{text}<p>", _PAGES),
    Edit(
        "`tables/verdict.verdict_table`",
        ["src/prrmse/tables/verdict.py"],
        _another("verdict_table"),
        {"verdict": 1, "screen_table": 1, "evidence": 1, "examples": 2, **_LATE},
    ),
    Edit(
        "`compare/distance.rmse`",
        ["src/prrmse/compare/distance.py"],
        _another("rmse"),
        {"rmse": 1, "screen": 2, "screen_table": 1, "transferability": 2, "ranking": 1, "evidence": 1, **_LATE},
    ),
    Edit("`learning/evaluate.measure`", ["src/prrmse/learning/evaluate.py"], _another("measure"), AFTER_DATA),
    Edit("`learning/train.train`", ["src/prrmse/learning/train.py"], _another("train"), AFTER_DATA),
]
# Rules that only name other rules' outputs.
COLLECTIONS = {"all", "reuse"}


def jobs(printed: str) -> dict[str, int]:
    """Rule -> number of jobs, of all of Snakemake's job tables in a text."""
    tables = re.findall(r"^job +count\n-+ +-+\n(.*?)^total", printed, re.M | re.S)
    assert tables or "Nothing to be done" in printed, printed
    found: dict[str, int] = {}
    for line in "".join(tables).strip().splitlines():
        name, count = line.split()
        if name not in COLLECTIONS:
            found[name] = found.get(name, 0) + int(count)
    return found
