"""Damage Snakemake's notes of finished results, change a parameter, and ask the real Snakemake what it would do.

    python tests/torture/notes.py                    # 600 runs, of one damaged note or several each
    python tests/torture/notes.py --runs 30 --seed 1 --add notes.csv    # added to earlier ones

A note is truncated, emptied, deleted, or has one bit turned over; meanwhile a parameter changes on which the result
depends. Every job whose parameter changed has to be planned, whatever became of the notes: otherwise the old result
stays, and looks like the new one.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import CHANGES, Folder, jobs
from torture.tally import Tally

from prrmse.run.records import METADATA

DAMAGES = ("truncated", "emptied", "deleted", "bit", "field")
# Notes damaged for a run: few, since one that is noticed brings about all that follows from it.
MOST = 3


def damage(note: Path, how: str, rng: random.Random) -> None:
    """Damage one note."""
    whole = note.read_bytes()
    if how == "deleted":
        note.unlink()
    elif how == "truncated":
        note.write_bytes(whole[: rng.randrange(1, len(whole))])
    elif how == "emptied":
        note.write_bytes(b"")
    elif how == "bit":
        at = rng.randrange(len(whole))
        note.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << rng.randrange(8))]) + whole[at + 1 :])
    else:  # one bit in the name of a field: the note is still JSON, and the field is missing
        key = rng.choice(sorted(json.loads(whole)))
        at = whole.index(f'"{key}"'.encode()) + 1 + rng.randrange(len(key))
        note.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


def notes_of(folder: Path, rules: set[str]) -> list[Path]:
    """The notes of all files that these rules made."""
    found = []
    for path in sorted((folder / METADATA).rglob("*")):
        if path.is_file() and json.loads(path.read_bytes())["rule"] in rules:
            found.append(path)
    return found


def campaign(finished: Folder, runs: int, seed: int, path: Path | None = None) -> Tally:
    """Damage notes of a folder in which everything is done, change a parameter, and look at what is planned.

    Returns:
        By parameter: runs, damaged notes, and jobs that should have been planned and were not.
    """
    rng = random.Random(seed)
    tally = Tally(["parameter"], seed, path)
    params = finished.read()
    for _ in range(runs):
        key, value, expected = rng.choice(CHANGES)
        with tempfile.TemporaryDirectory() as temporary:
            folder = finished.copy(Path(temporary) / "copy")
            folder.write(params)
            folder.change(key, value)
            notes = notes_of(folder.path, set(expected))
            chosen = rng.sample(notes, rng.randrange(1, min(len(notes), MOST) + 1))
            how = [rng.choice(DAMAGES) for _ in chosen]
            for note, kind in zip(chosen, how, strict=True):
                damage(note, kind, rng)
            # A run looks at the notes before it plans; a dry run changes nothing. This one has nothing to make.
            folder.must("snakemake", "--cores", "1", "data/phantom/acdc.sha256")
            planned = jobs(folder.must("snakemake", "--cores", "2", "--dry-run").rpartition("Job stats:")[2])
        missing = {rule: n - planned.get(rule, 0) for rule, n in expected.items() if planned.get(rule, 0) < n}
        if missing:
            print(f"{key}: {missing} not planned; {list(zip([n.name for n in chosen], how, strict=True))}", flush=True)
        tally.add({"parameter": key, "runs": 1, "notes damaged": len(chosen), "stale results": sum(missing.values())})
    return tally


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 1 if a stale result was taken for a new one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--add", type=Path, help="a CSV file of outcomes to add to")
    a = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        finished = Folder(Path(temporary) / "finished")
        finished.must("snakemake", "--cores", "2")
        tally = campaign(finished, a.runs, a.seed, a.add)
    print(f"\n{tally}")
    return int(tally.count("stale results") > 0)


if __name__ == "__main__":
    sys.exit(main())
