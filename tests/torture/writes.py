"""Stop a job at every write, flush, rename, link and removal that it does, by a kill or a full disk; run it again.

    python tests/torture/writes.py                   # every point of a training and of a table, hours
    python tests/torture/writes.py --points 20 --seed 1   # some of them, drawn by a seed

After each fault the job is run once more, as Snakemake does it (its outputs are deleted first). It must then end well,
with the bytes of an undisturbed run, leave nothing behind, and after a fault past the last step train no step again.
The fault is injected by strace into a fork of this process, which has torch imported: no job starts from nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
from conftest import ARGUMENTS, COMPUTE, SETTINGS

from prrmse.data.slices import Slices, save_slices
from prrmse.files import sha256_of
from prrmse.run.code import SOURCES, code_digest, sources_digest
from prrmse.run.hashes import damaged, record
from prrmse.run.warm import PRELOADED, _run
from prrmse.tables.store import write_table

for name in PRELOADED:  # as the program does before it forks a job
    importlib.import_module(name)

# A job that writes compiled modules has other calls than the next, which finds them.
sys.dont_write_bytecode = True

ROOT = Path(__file__).parents[2]
CALLS = ("write", "fsync", "rename", "link", "mkdir", "unlink")
# A call that only frees space cannot fail for want of it.
FAULTS = {"kill": CALLS, "full": CALLS[:-1]}
STEPS = SETTINGS.steps


class Job(NamedTuple):
    """A script of the workflow, its arguments, and what it makes."""

    script: str
    arguments: list[str]
    outputs: list[str]


class Point(NamedTuple):
    """The n-th call of a kind by the job, and what it was."""

    call: str
    n: int
    text: str


class Ended(NamedTuple):
    """How a job ended: its exit status, or the negative number of a signal; and what it said."""

    status: int
    said: str


def jobs() -> dict[str, Job]:
    """A training, and a table."""
    checkpoint, part, curve = (
        "results/checkpoints/unet/squares-seg/seed0.safetensors",
        "results/base/unet/squares-seg/seed0.csv",
        "results/curves/unet/squares-seg/seed0.jsonl",
    )
    spec = {"arguments": ARGUMENTS["unet"], "pretrained": "none"}
    params = {"nets.unet": spec, "init": "shared", "base": SETTINGS.model_dump(), "compute": COMPUTE.model_dump()}
    training = ["--net", "unet", "--model", "squares-seg", "--seed", "0", "--data", "data/processed/squares.npz"]
    training += ["--params", json.dumps(params), "--checkpoint", checkpoint, "--table", part, "--curve", curve]
    table = ["--table", "results/tables/base.csv", "--parts", "results/base/part.csv"]
    return {
        "training": Job("base", training, [checkpoint, part, curve]),
        "table": Job("base_table", table, ["results/tables/base.csv"]),
    }


class Workplace:
    """A folder in which jobs run, with the inputs of both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("src", "workflow"):
            (folder / name).symlink_to(ROOT / name)
        rng = np.random.default_rng(0)
        label = np.zeros((8, 16, 16), np.uint8)
        label[:, 4:12, 4:12] = 1
        image = (label + 0.3 * rng.standard_normal(label.shape)).astype(np.float32)
        index = pd.DataFrame({"patient": [f"p{i // 2}" for i in range(8)], "frame": "ED", "slice": [0, 1] * 4})
        index["split"] = ["train"] * 4 + ["val"] * 4
        meta = {"dataset": "squares", "classes": {"1": "square"}, "spacing_mm": 1.0, "provenance": "synthetic"}
        os.chdir(folder)
        save_slices(Slices(image, label, index, meta), "data/processed/squares.npz")
        part = pd.DataFrame(
            {"net": "unet", "model": "squares-seg", "seed": 0, "class": "mean", "patient": ["p2", "p3"]}
        )
        write_table(part.assign(dice=[0.5, 0.75], mse=np.nan), "results/base/part.csv")
        self.inputs = [Path("data/processed/squares.npz"), Path("results/base/part.csv")]
        self.codes = {job.script: code_digest(f"workflow/scripts/{job.script}.py") for job in jobs().values()}
        os.environ[SOURCES] = sources_digest("workflow/scripts")
        self.wipe()

    def wipe(self) -> None:
        """As before any job."""
        kept = {path: path.read_bytes() for path in self.inputs}
        for name in ("results", ".snakemake"):
            shutil.rmtree(name, ignore_errors=True)
        Path(".snakemake").mkdir()
        for path, content in kept.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        record({path: sha256_of(path) for path in self.inputs})

    def run(self, job: Job, *strace: str) -> Ended:
        """Run a job in a fork, with strace attached to it if it has arguments."""
        for output in job.outputs:  # as Snakemake does before it starts a job
            Path(output).unlink(missing_ok=True)
            Path(output).parent.mkdir(parents=True, exist_ok=True)
        log = Path("log")
        child = os.fork()
        if child == 0:
            with open(log, "wb") as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
            os.kill(os.getpid(), signal.SIGSTOP)
            script = f"workflow/scripts/{job.script}.py"
            status = _run([script, *job.arguments, "--code", self.codes[job.script]])
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        os.waitpid(child, os.WUNTRACED)
        if strace:
            tracer = subprocess.Popen(["strace", "-f", "-y", "-p", str(child), *strace], stderr=subprocess.DEVNULL)
            until(lambda: b"TracerPid:\t0\n" not in Path(f"/proc/{child}/status").read_bytes())
        os.kill(child, signal.SIGCONT)
        status = os.waitpid(child, 0)[1]
        if strace:
            tracer.wait(300)
        return Ended(os.waitstatus_to_exitcode(status), log.read_text(errors="replace"))

    def points(self, job: Job) -> list[Point]:
        """Every call of the job that changes something in the folder, in order."""
        self.wipe()
        ended = self.run(job, "-e", f"trace={','.join(CALLS)}", "-o", "trace")
        assert ended.status == 0, ended.said
        counts: Counter[str] = Counter()
        found, main = [], ""
        for line in Path("trace").read_text(errors="replace").splitlines():
            process, _, text = line.partition(" ")
            call = text.strip().partition("(")[0]
            main = main or process
            if process == main and call in CALLS:
                counts[call] += 1
                if re.search(r"[\"</](results|\.snakemake)/", text):
                    found.append(Point(call, counts[call], text.strip()))
        return found

    def made(self, job: Job) -> dict[str, str]:
        return {output: sha256_of(output) for output in job.outputs}

    def leftovers(self) -> list[str]:
        return [str(p) for p in Path("results").rglob(".*") if p.is_file()]


def until(condition, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.002)


def last_step_saved(points: list[Point]) -> int:
    """Index of the rename that puts the last snapshot in place."""
    return max((i for i, p in enumerate(points) if p.call == "rename" and ".resume" in p.text), default=-1)


def defects(place: Workplace, job: Job, want: dict[str, str], point: Point, fault: str, late: bool) -> list[str]:
    """What is wrong after a fault at a point."""
    place.wipe()
    what = "signal=KILL" if fault == "kill" else "error=ENOSPC"
    inject = f"inject={point.call}:{what}:when={point.n}"
    first = place.run(job, "-e", f"trace={point.call}", "-e", inject, "-o", "injected")
    found = []
    if fault == "kill" and first.status != -signal.SIGKILL:
        found.append(f"not killed, status {first.status}")
    if "Traceback" in first.said:
        found.append(f"traceback: {first.said.splitlines()[-1]}")
    if fault == "full" and first.status and "No space left on device" not in first.said:
        found.append(f"status {first.status} and no word of the disk: {first.said[-200:]}")
    again = place.run(job)
    if again.status:
        return [*found, f"then status {again.status}: {again.said[-300:]}"]
    if place.made(job) != want:
        found.append("other bytes")
    if damaged():
        found.append(f"verify: {damaged()}")
    if place.leftovers():
        found.append(f"left: {place.leftovers()}")
    if (
        late
        and first.status
        and not re.search(rf"resuming after step {STEPS} |taken from what an earlier run kept", again.said)
    ):
        found.append("trained again after the last step was saved")
    return found


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 1 if anything was lost or wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=jobs(), action="append")
    parser.add_argument("--points", type=int, help="of each job and fault; all if not given")
    parser.add_argument("--seed", type=int, default=0)
    a = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path.cwd()
        try:
            rows = list(campaign(Workplace(Path(temporary)), a.job or list(jobs()), a.points, a.seed))
        finally:
            os.chdir(folder)
    print("\n| job | fault | points | tried | lost or wrong |\n|---|---|---|---|---|")
    for job, fault, known, tried, bad in rows:
        print(f"| {job} | {fault} | {known} | {tried} | {bad} |")
    return int(any(row[-1] for row in rows))


def campaign(
    place: Workplace, names: list[str], some: int | None, seed: int
) -> Iterator[tuple[str, str, int, int, int]]:
    """Job, fault, number of points, of those tried, and of those after which something was wrong."""
    print(f"seed {seed}")
    for name in names:
        job = jobs()[name]
        points = place.points(job)
        want = place.made(job)
        last = last_step_saved(points)
        for fault in FAULTS:
            rng = random.Random(f"{seed} {name} {fault}")
            known = [i for i, point in enumerate(points) if point.call in FAULTS[fault]]
            chosen = known if some is None else sorted(rng.sample(known, min(some, len(known))))
            bad = 0
            for i in chosen:
                late = name == "training" and i > last
                if wrong := defects(place, job, want, points[i], fault, late):
                    bad += 1
                    print(
                        f"{name}, {fault} at {points[i].call} {points[i].n} {points[i].text[:150]}: {wrong}", flush=True
                    )
            yield name, fault, len(known), len(chosen), bad


if __name__ == "__main__":
    sys.exit(main())
