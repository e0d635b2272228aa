"""What a change re-runs, and what a clone has to compute again: `make reproducibility`.

On the tiny configuration of the tests, by the real programs, in a temporary folder: `dvc repro` from nothing, push,
clone, pull; then each change of a parameter in a fresh clone, once asked of Snakemake (dry run) and once done by
`dvc repro`; then changes of code, asked of Snakemake (dry run), where every output is an empty file.
Prints Markdown.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tiny import AFTER_DATA, CHANGES, EDITS, Folder, jobs


def seconds(folder: Folder, *command: str) -> tuple[float, str]:
    start = time.perf_counter()
    printed = folder.must(*command)
    return time.perf_counter() - start, printed


def clone_of(folder: Folder, path: Path) -> Folder:
    folder.git("clone", "-q", str(folder.path), str(path))
    clone = Folder.at(path)
    clone.must("dvc", "pull", "-q")
    return clone


def shown(counts: dict[str, int]) -> str:
    if counts == AFTER_DATA:
        return f"all {sum(counts.values())} jobs but those that make the processed data"
    return ", ".join(f"{count} {rule}" for rule, count in counts.items()) or "nothing"


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        first = Folder(place / "first")
        first.git("init", "-q", "-b", "main")
        first.git("add", "-A")
        first.git("commit", "-qm", "Start")
        first.must("dvc", "remote", "add", "-q", "-d", "store", str(place / "store"))
        took, printed = seconds(first, "dvc", "repro")
        print(f"- `dvc repro` from nothing: {sum(jobs(printed).values())} jobs, {took:.0f} s")
        first.git("commit", "-qam", "Run")
        first.must("dvc", "push", "-q")
        clone = clone_of(first, place / "clone")
        print(f"- push, clone, pull; `dvc status`: {clone.must('dvc', 'status').strip()}")
        print(f"- `snakemake -n` there: {shown(clone.planned())}")
        second = Folder(place / "second")
        second.must("snakemake", "--cores", "1")
        same = second.must("prrmse", "diff", str(first.path), ".")
        print(f"- a second clean run, one job at a time; `prrmse diff`: {same}")
        print("| change | `snakemake -n` plans | `dvc repro` ran | s |\n|---|---|---|---|")
        for number, (key, value, expected) in enumerate(CHANGES):
            changed = clone_of(first, place / f"change{number}")
            changed.change(key, value)
            planned = changed.planned()
            took, printed = seconds(changed, "dvc", "repro")
            print(f"| `{key}: {value}` | {shown(planned)} | {shown(jobs(printed))} | {took:.0f} |", flush=True)
            if planned != expected:
                sys.exit(f"expected {shown(expected)}")
        pretended = Folder(place / "code")
        pretended.pretend("all", "evidence")
        print("\n| change of code | `snakemake -n all evidence` plans |\n|---|---|")
        for edit in EDITS:
            originals = edit.apply(pretended.path)
            planned = pretended.planned("all", "evidence")
            for path, text in originals.items():
                path.write_text(text)
            print(f"| {edit.what} | {shown(planned)} |", flush=True)
            if planned != edit.jobs:
                sys.exit(f"expected {shown(edit.jobs)}")


if __name__ == "__main__":
    main()
