"""Kill a run at random moments, start the same command again, and compare every byte with an undisturbed run.

    python tests/torture/kills.py --kills 300                        # snakemake, a night
    python tests/torture/kills.py --program dvc --kills 60
    python tests/torture/kills.py --kills 100 --seed 1 --add kills.csv   # added to earlier ones

Kinds of kill: SIGKILL, SIGTERM or SIGINT for all processes of the run at once; SIGKILL for everything at work in the
folder, as when the power fails; SIGKILL for one job alone, for Snakemake or DVC alone; and a SIGKILL for all while a
run ends after one of the others. A kill counts if the run was at work. Between kills a folder may also lose all of its
results to a forced `dvc checkout` (--checkouts), or the clock may be set back and forth (--clock). Nothing is done by
hand: no --unlock, no file is deleted.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from forked import Run, started
from tiny import Folder
from torture.tally import Tally

from prrmse.files import sha256_of
from prrmse.run.hashes import recorded
from prrmse.run.kept import FOLDER as KEPT

COMMANDS = {"snakemake": ("snakemake", "--cores", "2"), "dvc": ("dvc", "repro")}
KINDS = {"kill all": 4, "power off": 4, "terminate all": 2, "interrupt all": 2, "kill a job": 3, "kill the run": 2}
SIGNALS = {"terminate all": signal.SIGTERM, "interrupt all": signal.SIGINT}
# A run that was asked to end and has not is taken for one that hangs; other programs may be at work beside it.
LONGEST_END = 900
# Kills of a run that was only planning.
IDLE = "without a job"
DEFECTS = ("wrong files", "refused or failed", "did not end", "finished work done again")


def hashes(folder: Path) -> dict[str, str]:
    """Every result by its SHA-256, but for the manifest, which names the machine and the commit, and its hash."""
    tops = ("results", "data/processed", "data/phantom")
    paths = [path for top in tops for path in sorted((folder / top).rglob("*")) if path.is_file()]
    visible = [path for path in paths if path.name not in (".gitignore", ".snakemake_timestamp")]
    return {str(path.relative_to(folder)): sha256_of(path) for path in visible if "manifest.json" not in path.name}


def processes(folder: Path) -> dict[int, str]:
    """Process -> its command, of all whose working folder is this one."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == folder:
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                    found[int(entry.name)] = command.decode(errors="replace")
    return found


def jobs(folder: Path) -> list[int]:
    """Processes that compute: those that Snakemake started, and the forks that work for them."""
    found = processes(folder)
    servers = {process for process, command in found.items() if "--serve" in command}
    forks = [process for process in servers if parent(process) in servers]
    return sorted([*forks, *(process for process, command in found.items() if "workflow/scripts" in command)])


def parent(process: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def finished(folder: Path) -> dict[str, int]:
    """What is recorded as done, by the number of its file on the disk, which changes where it is done again."""
    numbers = {file: (folder / file).stat().st_ino for file in recorded(folder)}
    return numbers | {str(path): path.stat().st_ino for path in (folder / KEPT).glob("*/files.json")}


class Campaign:
    """A folder that is disturbed until its results are complete."""

    def __init__(self, folder: Folder, command: tuple[str, ...], seed: str) -> None:
        self.folder, self.command, self.rng = folder, command, random.Random(seed)
        self.log = folder.path.with_name(f"{folder.path.name}.log")
        self.counts: Counter[str] = Counter()

    def hit(self, run: Run, kind: str) -> None:
        """Do it; it counts if the run was at work."""
        at_work = jobs(self.folder.path)
        victims = {"kill the run": [run.pid], "kill a job": [self.rng.choice(at_work)] if at_work else []}
        victims["power off"] = sorted(processes(self.folder.path))
        if run.wait(0) is not None or not victims.get(kind, [run.pid]):
            return
        for victim in victims.get(kind, []):
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if kind not in victims:
            os.killpg(run.pid, SIGNALS.get(kind, signal.SIGKILL))
        self.counts[kind] += 1
        self.counts[IDLE] += not at_work

    def disturbed_once(self, longest: float) -> bool:
        """One start of the command and a kill, or two; whether it ended well by itself."""
        run = started(self.folder, self.command, self.log)
        kind = self.rng.choices(list(KINDS), list(KINDS.values()))[0]
        if self.rng.random() < 0.8:  # otherwise it may be hit before its first job
            while run.wait(0.05) is None and not jobs(self.folder.path):
                pass
        if run.wait(self.rng.uniform(0, longest)) is None:
            self.hit(run, kind)
            if self.rng.random() < 0.3 and run.wait(self.rng.uniform(0, 1)) is None:
                self.hit(run, "kill all")
            if run.wait(LONGEST_END) is None:
                self.counts["did not end"] += 1
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
            return False
        if run.status:
            self.counts["refused or failed"] += 1
            print(self.log.read_text(errors="replace")[-1500:], flush=True)
        return run.status == 0

    def disturbed(self, longest: float, *, checkouts: bool, clock: bool) -> Iterator[int]:
        """Start it again and again until it ends well; the kills so far, after each start."""
        before = finished(self.folder.path)
        done = False
        while not done:
            done = self.disturbed_once(longest)
            after = finished(self.folder.path)
            again = sorted(file for file, number in before.items() if after.get(file) != number)
            if again:
                self.counts["finished work done again"] += len(again)
                print(f"done again: {again[:10]}", flush=True)
            if clock:
                self.folder.scatter_times(self.rng)
            if checkouts and not done and self.rng.random() < 0.2:
                self.folder.run("dvc", "checkout", "--force")
                self.counts["checkouts"] += 1
                after = {file: number for file, number in finished(self.folder.path).items() if str(KEPT) in file}
            before = after
            yield sum(self.counts[kind] for kind in KINDS)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 1 if a byte was wrong, a start was refused, or finished work was done again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", choices=COMMANDS, default="snakemake")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--longest", type=float, default=5, help="seconds from the start, or its first job, to a kill")
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--checkouts", action="store_true", help="now and then a forced `dvc checkout` between two starts"
    )
    parser.add_argument("--clock", action="store_true", help="draw the times of all files anew between two starts")
    parser.add_argument("--add", type=Path, help="a CSV file of outcomes to add to")
    a = parser.parse_args(arguments)
    tally = Tally(["program"], a.seed, a.add)
    with tempfile.TemporaryDirectory() as temporary:
        torture(Path(temporary), a, tally)
    print(f"\n{tally}")
    return int(any(tally.count(defect) for defect in DEFECTS))


def torture(root: Path, a: argparse.Namespace, tally: Tally) -> None:
    """Run campaigns until there were enough kills."""
    print(f"seed {a.seed}", flush=True)
    program = " ".join([a.program, *(f"--{name}" for name in ("checkouts", "clock") if getattr(a, name))])
    reference = prepared(root / "reference")
    reference.must(*COMMANDS[a.program])
    want = hashes(reference.path)
    deadline = time.monotonic() + a.minutes * 60
    kills = number = 0
    while kills < a.kills and time.monotonic() < deadline:
        folder = prepared(root / f"campaign{number}")
        campaign = Campaign(folder, COMMANDS[a.program], f"{a.seed} {number}")
        for n in campaign.disturbed(a.longest, checkouts=a.checkouts, clock=a.clock):
            if kills + n >= a.kills or time.monotonic() > deadline:
                break
        folder.must(*COMMANDS[a.program])
        got = hashes(folder.path)
        wrong = sorted(file for file in {*got, *want} if got.get(file) != want.get(file))
        if wrong:
            print(f"campaign {number}: {wrong[:10]}", flush=True)
        campaign.counts["wrong files"] = len(wrong)
        counted = {what: campaign.counts[what] for what in (*KINDS, IDLE, "checkouts", *DEFECTS)}
        tally.add({"program": program, "campaigns": 1, "files compared": len(want), **counted})
        print(counted, flush=True)
        kills, number = kills + n, number + 1


def prepared(path: Path) -> Folder:
    """A folder whose trainings take long enough to be hit, with a repository around it."""
    folder = Folder(path)
    for key in ("base.steps", "transfer.train.steps"):
        folder.change(key, 30)
    folder.change("compute.resume_seconds", 0.3)
    folder.git("init", "-q", "-b", "main")
    folder.git("add", "-A")
    folder.git("commit", "-qm", "Start")
    return folder


if __name__ == "__main__":
    sys.exit(main())
