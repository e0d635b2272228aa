"""Damage Snakemake's notes of finished results, change a parameter, and ask the real Snakemake what it would do.

    python tests/torture/notes.py                    # 600 damaged notes
    python tests/torture/notes.py --notes 30 --seed 1

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
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from tiny import CHANGES, Folder

from prrmse.run.records import METADATA

DAMAGES = ("truncated", "emptied", "deleted", "bit", "field")


class Counts(NamedTuple):
    """Notes that were damaged, dry runs of Snakemake, and jobs that it should have planned and did not."""

    notes: int
    runs: int
    stale: int


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


def campaign(finished: Folder, wanted: int, seed: int) -> Counts:
    """Damage notes of a folder in which everything is done, until so many are damaged."""
    rng = random.Random(seed)
    print(f"seed {seed}")
    damaged = runs = stale = 0
    params = finished.read()
    while damaged < wanted:
        key, value, expected = rng.choice(CHANGES)
        with tempfile.TemporaryDirectory() as temporary:
            folder = finished.copy(Path(temporary) / "copy")
            folder.write(params)
            folder.change(key, value)
            notes = notes_of(folder.path, set(expected))
            chosen = rng.sample(notes, min(len(notes), wanted - damaged, rng.randrange(1, len(notes) + 1)))
            how = [rng.choice(DAMAGES) for _ in chosen]
            for note, kind in zip(chosen, how, strict=True):
                damage(note, kind, rng)
            # A run looks at the notes before it plans; a dry run changes nothing. This one has nothing to make.
            folder.must("snakemake", "--cores", "1", "data/phantom/acdc.sha256")
            planned = folder.planned()
            damaged, runs = damaged + len(chosen), runs + 1
            missing = {rule: n - planned.get(rule, 0) for rule, n in expected.items() if planned.get(rule, 0) < n}
            if missing:
                stale += sum(missing.values())
                print(
                    f"{key}: {missing} not planned; {list(zip([n.name for n in chosen], how, strict=True))}", flush=True
                )
    return Counts(damaged, runs, stale)


def main(arguments: list[str] | None = None) -> int:
    """Entry point: 1 if a stale result was taken for a new one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--notes", type=int, default=600)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--finished", type=Path, help="a folder of tests/tiny.py in which everything is done")
    a = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        if a.finished:
            finished = Folder.__new__(Folder)
            finished.path = a.finished.resolve()
        else:
            finished = Folder(Path(temporary) / "finished")
            finished.must("snakemake", "--cores", "2")
        counts = campaign(finished, a.notes, a.seed)
    print(f"\n| notes damaged | dry runs | stale results |\n|---|---|---|\n| {' | '.join(map(str, counts))} |")
    return int(counts.stale > 0)


if __name__ == "__main__":
    sys.exit(main())
