"""Draw a phantom cohort in its distributed format, and list its files with their hashes."""

from argparse import Namespace
from pathlib import Path

from prrmse.files import sha256_of, write_text
from prrmse.phantom.cohort import generate, remove
from prrmse.run.job import run


def main(a: Namespace) -> None:
    root = Path(a.params[f"datasets.{a.dataset}.root"])
    if root.exists():
        remove(root)
    cohort = a.params[f"datasets.{a.dataset}.phantom"]
    of_format = a.params[f"datasets.{a.dataset}.format"]
    generate(of_format, root, patients=cohort.patients, seed=cohort.seed, **cohort.options)
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = [f"{sha256_of(path)}  {path.relative_to(root)}\n" for path in files]
    write_text("".join(lines), a.manifest)


run(main, "dataset", "params", "manifest")
