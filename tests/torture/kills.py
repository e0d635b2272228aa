"""Kill a run at random moments, start the same command again, and compare every byte with an undisturbed run.

    python tests/torture/kills.py --kills 300                 # snakemake, a night
    python tests/torture/kills.py --program dvc --kills 60
    python tests/torture/kills.py --kills 4 --minutes 10 --seed 1

Kinds of kill: SIGKILL, SIGTERM or SIGINT for all processes at once, SIGKILL for one job alone, for Snakemake or DVC
alone. Between kills a folder may also lose all of its results to a forced `dvc checkout` (--checkouts). Nothing is done
by hand: no --unlock, no file is deleted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import Folder

from prrmse.files import sha256_of

COMMANDS = {"snakemake": ["snakemake", "--cores", "2"], "dvc": ["dvc", "repro"]}
KINDS = {"kill all": 5, "terminate all": 2, "interrupt all": 2, "kill a job": 2, "kill the run": 2}


def hashes(folder: Path) -> dict[str, str]:
    """Every result by its SHA-256, but for the manifest, which names the machine and the commit."""
    tops = ("results", "data/processed", "data/phantom")
    paths = [path for top in tops for path in sorted((folder / top).rglob("*")) if path.is_file()]
    visible = [path for path in paths if path.name not in (".gitignore", ".snakemake_timestamp")]
    return {str(path.relative_to(folder)): sha256_of(path) for path in visible if path.name != "manifest.json"}


def processes(folder: Path) -> dict[int, str]:
    """Process -> its command, of all whose working folder is this one."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cwd").readlink() == folder:
                    found[int(entry.name)] = (
                        (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    )
            except OSError:
                continue
    return found


class Campaign:
    """A folder that is disturbed until its results are complete, again and again."""

    def __init__(self, folder: Folder, program: str, seed: int) -> None:
        self.folder, self.command, self.rng = folder, COMMANDS[program], random.Random(seed)
        self.counts: Counter[str] = Counter()

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command,
            cwd=self.folder.path,
            env=self.folder.environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=open(self.folder.path / "logs.txt", "w"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def hit(self, run: subprocess.Popen[str], kind: str) -> None:
        """Do it."""
        number = {"terminate all": signal.SIGTERM, "interrupt all": signal.SIGINT}.get(kind, signal.SIGKILL)
        if kind.endswith("all"):
            os.killpg(run.pid, number)
        elif kind == "kill the run":
            os.kill(run.pid, number)
        else:
            jobs = [p for p, command in processes(self.folder.path).items() if "workflow/scripts" in command]
            if jobs:
                os.kill(self.rng.choice(sorted(jobs)), number)

    def disturbed_once(self, longest: float) -> bool:
        """One start of the command and at most one kill; whether it ended well by itself."""
        run = self.start()
        delay = self.rng.uniform(0.5, longest)
        kind = self.rng.choices(list(KINDS), list(KINDS.values()))[0]
        try:
            status = run.wait(delay)
        except subprocess.TimeoutExpired:
            self.hit(run, kind)
            self.counts[kind] += 1
            try:
                run.wait(120)
            except subprocess.TimeoutExpired:
                self.counts["did not end"] += 1
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
            return False
        if status:
            self.counts["refused or failed"] += 1
            print((self.folder.path / "logs.txt").read_text()[-1500:], flush=True)
        return status == 0

    def undisturbed(self) -> str:
        """The last start: it has to end well."""
        return self.folder.must(*self.command)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 1 if a byte was wrong, a start was refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", choices=COMMANDS, default="snakemake")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--longest", type=float, default=40, help="seconds from the start to a kill, at most")
    parser.add_argument("--minutes", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--checkouts", action="store_true", help="now and then a forced `dvc checkout` between two starts"
    )
    a = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        return torture(Path(temporary), a)


def torture(root: Path, a: argparse.Namespace) -> int:
    """Run campaigns until there were enough kills; print what happened."""
    print(f"seed {a.seed}", flush=True)
    reference = prepared(root / "reference")
    reference.must(*COMMANDS[a.program])
    want = hashes(reference.path)
    deadline = time.monotonic() + a.minutes * 60
    counts: Counter[str] = Counter()
    kills = 0
    for number in range(a.kills):
        campaign = Campaign(prepared(root / f"campaign{number}"), a.program, a.seed * 1000 + number)
        while kills < a.kills and time.monotonic() < deadline:
            done = campaign.disturbed_once(a.longest)
            kills = sum(counts[kind] + campaign.counts[kind] for kind in KINDS)
            if done:
                break
            if a.checkouts and campaign.rng.random() < 0.2:
                campaign.folder.run("dvc", "checkout", "--force")
                campaign.counts["checkouts"] += 1
        campaign.undisturbed()
        got = hashes(campaign.folder.path)
        wrong = sorted(file for file in {*got, *want} if got.get(file) != want.get(file))
        campaign.counts["wrong files"] += len(wrong)
        campaign.counts["campaigns"] += 1
        if wrong:
            print(f"campaign {number}: {wrong[:10]}", flush=True)
        print(json.dumps(campaign.counts), flush=True)
        counts += campaign.counts
        if kills >= a.kills or time.monotonic() > deadline:
            break
    bad = counts["wrong files"] + counts["refused or failed"] + counts["did not end"]
    rows = {"kills": kills, **counts, "files compared": len(want)}
    print("\n| what | n |\n|---|---|\n" + "\n".join(f"| {name} | {n} |" for name, n in rows.items()))
    print(f"| wrong files, refusals | {bad} |")
    return int(bad > 0)


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
