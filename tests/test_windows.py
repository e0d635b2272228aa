"""The commands on networks and checkpoints without what only POSIX has: the nearest to Windows that Linux offers."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import torch
from conftest import ARGUMENTS, initialise

from prrmse.data.slices import save_slices
from prrmse.nets.checkpoint import save_checkpoint
from prrmse.nets.layers import inventory

# What others import is there on Windows in their own ways; ours must do without.
WITHOUT = """
import ctypes, json, os, signal, socket, sys
import matplotlib.pyplot, pandas, scipy.stats, seaborn, sklearn, skimage, torch
for name in ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog"):
    sys.modules[name] = None
for owner, name in (
    (os, "fork"), (os, "getuid"), (os, "geteuid"), (os, "mkfifo"), (os, "killpg"), (os, "O_NOFOLLOW"), (os, "uname"),
    (os, "sched_getaffinity"), (signal, "SIGKILL"), (signal, "SIGHUP"), (signal, "SIGUSR1"), (socket, "AF_UNIX"),
):
    if hasattr(owner, name):
        delattr(owner, name)
whole = ctypes.CDLL.__init__
def named(self, name, *arguments, **options):
    if name is None:
        raise TypeError("argument of type 'NoneType' is not iterable")
    whole(self, name, *arguments, **options)
ctypes.CDLL.__init__ = named
from prrmse.cli.main import main
sys.exit(max(main(command) for command in json.loads(sys.argv[1])))
"""


def test_the_commands_need_nothing_that_only_posix_has(slices, tmp_path):
    network = initialise("unet", ARGUMENTS["unet"], "shared", "none", "a-seg", 0)
    header = {"net": "unet", "arguments": ARGUMENTS["unet"], "layers": [x._asdict() for x in inventory(network)]}
    save_checkpoint(network, tmp_path / "a.safetensors", header)
    other = initialise("unet", ARGUMENTS["unet"], "independent", "none", "b-seg", 1)
    torch.save(other.state_dict(), tmp_path / "b.pth")
    save_slices(slices, tmp_path / "slices.npz")
    data = ["--data", "slices.npz", "--threads", "1", "--device", "auto"]
    commands = [
        ["inspect", "b.pth"],
        ["compare", "a.safetensors", "b.pth", "--figure", "ab.svg"],
        ["evaluate", "a.safetensors", *data],
        ["sweep", "a.safetensors", "b.pth", *data, "--table", "drops.csv"],
        ["advise", "a.safetensors", "b.pth", *data, "--out", "advice.json"],
    ]
    two = {**os.environ, "CUDA_VISIBLE_DEVICES": "0,1"}  # between which a lock decides elsewhere
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, json.dumps(commands)], cwd=tmp_path, env=two, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert all((tmp_path / name).stat().st_size > 100 for name in ("ab.svg", "drops.csv", "advice.json"))
