"""The full sweep by this engine and by that of an earlier commit, on this machine: `python bench/since.py COMMIT`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
# Run in either checkout, with its own bench/ and src/; the first commits had other names.
TIMED = """
from common import CLASSES, NETS, noise, pair, seconds
from sweeps import COMPUTE, Evaluation, inventory, sweep
try:
    from prrmse.learning.device import set_up_process as set_up
except ImportError:
    from prrmse.device import make_deterministic
    set_up = lambda device, threads: make_deterministic(threads)
set_up("auto", 2)
data = noise(32)
for net, arguments in NETS.items():
    target, source = pair(net, arguments)
    layers, evaluation = inventory(target), Evaluation(data, COMPUTE, CLASSES)
    print(net, seconds(lambda: sweep(target, source.state_dict(), layers, evaluation), 2))
"""


def timed(checkout: Path) -> dict[str, float]:
    """Seconds of a sweep of 32 slices by ``fast``, the better of two, by network."""
    path = os.pathsep.join(str(checkout / name) for name in ("src", "bench"))
    command, environment = [sys.executable, "-c", TIMED], {**os.environ, "PYTHONPATH": path}
    done = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return {net: float(value) for net, value in (line.split() for line in done.stdout.splitlines())}


def main() -> None:
    commit = sys.argv[1]
    with tempfile.TemporaryDirectory() as temporary:
        then = Path(temporary) / "then"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(then), commit], check=True)
        try:
            before, after = timed(then), timed(ROOT)
        finally:
            subprocess.run([*git, "remove", "--force", str(then)], check=True)
    print(f"| network | {commit}, s | now, s | ratio |\n|---|---|---|---|")
    for net, value in after.items():
        print(f"| {net} | {before[net]:.2f} | {value:.2f} | {before[net] / value:.2f} |")


if __name__ == "__main__":
    main()
