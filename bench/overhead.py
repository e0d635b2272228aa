"""What a job pays before it does anything, and how long the paper's full experiment takes to plan."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import yaml
from common import seconds, table

ROOT = Path(__file__).parents[1]


def against_imports() -> str:
    """An interpreter, imports of the package and of torch, a dry run."""
    light = "import prrmse, sys; assert 'torch' not in sys.modules"
    tables = "import prrmse.config.params, prrmse.compare.distance, sys; assert 'torch' not in sys.modules"
    rows: list[dict[str, object]] = []
    starts = {"an interpreter": "", "... and `import prrmse`": light, "... and what makes tables": tables}
    for name, code in {
        **starts,
        "... and torch, torchvision, training": "import prrmse.learning.train",
    }.items():
        command = [sys.executable, "-c", code]
        took = seconds(partial(subprocess.run, command, check=True), 3)
        rows.append({"what": name, "s": f"{took:.2f}"})
    with tempfile.TemporaryDirectory() as temporary:
        for entry in ("Snakefile", "workflow", "profiles", "configs", "params.yaml", "environment.yml", "src"):
            source, copied = ROOT / entry, Path(temporary) / entry
            shutil.copytree(source, copied) if source.is_dir() else shutil.copy(source, copied)
        paper = yaml.safe_load((ROOT / "configs/paper.yaml").read_text())
        del paper["datasets"]  # phantoms stand for them: the same jobs
        (Path(temporary) / "paper.yaml").write_text(yaml.safe_dump({**paper, "seeds": [0, 1, 2, 3, 4]}))
        command = [f"{Path(sys.executable).parent}/snakemake", "--dry-run", "--quiet", "--configfile", "paper.yaml"]
        took = seconds(lambda: subprocess.run(command, cwd=temporary, check=True, capture_output=True), 1)
        rows.append({"what": "a plan of configs/paper.yaml with 5 seeds (`snakemake --dry-run`)", "s": f"{took:.2f}"})
    return "\n### Overhead\n\n" + table(rows)
