"""Draw a phantom cohort in its distributed format, and list its files with their hashes."""

import shutil
from argparse import Namespace
from pathlib import Path

from prrmse.errors import InputError
from prrmse.files import sha256_of, write_text
from prrmse.phantom.cohort import generate
from prrmse.run.job import run


def main(a: Namespace) -> None:
    root = Path(a.params[f"datasets.{a.dataset}.root"])
    if root.exists():
        if not (root / "PHANTOM.md").is_file():
            raise InputError(f"datasets.{a.dataset}.root: {root} exists and is no phantom; name another folder")
        shutil.rmtree(root)
    generate(a.params[f"datasets.{a.dataset}.format"], root, **a.params[f"datasets.{a.dataset}.phantom"].model_dump())
    files = sorted(path for path in root.rglob("*") if path.is_file())
    lines = [f"{sha256_of(path)}  {path.relative_to(root)}\n" for path in files]
    write_text("".join(lines), a.manifest)


run(main, "dataset", "params", "manifest")
