"""Every file is written whole or not at all, whoever writes it and whenever it is stopped."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import ARGUMENTS
from torch import nn

from prrmse.api import warmstart
from prrmse.config.params import use_params
from prrmse.data.slices import save_slices
from prrmse.errors import InputError
from prrmse.figures.style import Drawing, panel_grid, save
from prrmse.figures.tool import distances_by_layer, drops_by_layer
from prrmse.files import atomic, own_folder, write_text
from prrmse.nets.build import build
from prrmse.nets.checkpoint import save_checkpoint
from prrmse.nets.layers import inventory
from prrmse.settings import Figures
from prrmse.tables.store import write_table

OLD = b"the file of the last run"
DISTANCES = pd.DataFrame({"kind": ["W", "W"], "layer": [1, 2], "rmse_relative": [0.1, 0.2], "cosine": [1.0, 0.5]})
DROPS = pd.DataFrame({"kind": ["W", "RM"], "layer": [1, 1], "drop": [0.0, 0.3]})


def test_the_new_file_replaces_the_old_one_and_nothing_else_stays(tmp_path):
    path = tmp_path / "deep" / "table.csv"
    for text in ("first", "second"):
        with atomic(path) as partial:
            assert partial.suffix == ".csv", "writers choose the format by the ending"
            partial.write_text(text)
        assert path.read_text() == text
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text("old", path)
    with pytest.raises(ZeroDivisionError), atomic(path) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_content_is_on_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    """After a power cut a journal may hold the rename and not the content: fsync has to come first."""
    events = []
    fsync, replace = os.fsync, os.replace

    def noted_fsync(handle):
        events.append(Path(f"/proc/self/fd/{handle}").resolve())
        fsync(handle)

    def noted_replace(source, target):
        events.append("replaced")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    with atomic(tmp_path / "a.txt") as partial:
        partial.write_text("new")
    assert events == [partial.resolve(), "replaced", tmp_path.resolve()]


def state_of(tmp_path, slices):
    """Everything that writes a file: its name and how it is called."""
    torch.manual_seed(0)
    network = build("unet", **ARGUMENTS["unet"])
    one = nn.Sequential(nn.Conv2d(1, 1, 1))
    (tmp_path / "overlay.yaml").write_text("seeds: [7]\n")
    (tmp_path / "params.yaml").write_bytes((Path(__file__).parents[1] / "params.yaml").read_bytes())
    figure, _ = panel_grid(1, 1, 1.0)
    return {
        "text.md": lambda path: write_text("new", path),
        "table.csv": lambda path: write_table(DROPS, path),
        "slices.npz": lambda path: save_slices(slices, path),
        "checkpoint.safetensors": lambda path: save_checkpoint(one, path, {"net": "one"}),
        "warm.safetensors": lambda path: warmstart(network, network.state_dict(), inventory(network)[:2], path),
        "warm.json": lambda path: warmstart(
            network, network.state_dict(), inventory(network)[:2], path.with_suffix(".safetensors")
        ),
        "figure.svg": lambda path: save(figure, "figure", path.parent, Drawing(Figures(dpi=50))),
        "figure.png": lambda path: save(figure, "figure", path.parent, Drawing(Figures(dpi=50))),
        "compare.png": lambda path: distances_by_layer(DISTANCES, path),
        "sweep.svg": lambda path: drops_by_layer(DROPS, 0.05, path),
        "params.yaml": lambda path: use_params(path.parent / "overlay.yaml", path),
    }


WRITERS = ["text.md", "table.csv", "slices.npz", "checkpoint.safetensors", "warm.safetensors", "warm.json"]
WRITERS += ["figure.svg", "figure.png", "compare.png", "sweep.svg", "params.yaml"]


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_writes_in_place(name, tmp_path, slices, monkeypatch):
    """Stop every writer at the moment in which its file takes its name: the old file is still there, whole."""
    write = state_of(tmp_path, slices)[name]
    path = tmp_path / name
    if name != "params.yaml":
        path.write_bytes(OLD)
    before, replace = path.read_bytes(), os.replace

    def stopped(source, target):
        if Path(target) == path:
            assert Path(source).stat().st_size > 0
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        write(path)
    assert path.read_bytes() == before
    monkeypatch.undo()
    write(path)
    assert path.read_bytes() != before


def test_a_process_killed_while_it_writes_leaves_no_half_file(tmp_path):
    script = (
        "import sys, time\n"
        "from prrmse.files import atomic\n"
        "with atomic(sys.argv[1]) as partial, open(partial, 'w') as f:\n"
        "    f.write('half'); f.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    path = tmp_path / "figure.png"
    process = subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "writing\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not path.exists()
    left = [p.name for p in tmp_path.iterdir()]
    assert all(name.startswith(".") and ".partial" in name for name in left), "git and DVC ignore these"
    write_text("whole", path)
    assert path.read_text() == "whole"


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_a_file_has_the_mode_of_any_new_file(mask, tmp_path):
    """A checkpoint too: its writer would make it readable by its owner alone."""
    before = os.umask(mask)
    try:
        save_checkpoint(build("unet", **ARGUMENTS["unet"]), tmp_path / "a.safetensors", {"net": "unet"})
        write_text("x", tmp_path / "a.txt")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}


@pytest.mark.parametrize("call", ["write", "fsync"])
def test_a_full_disk_is_one_line_that_names_it(call, tmp_path, monkeypatch):
    path = tmp_path / "deep/a.csv"
    path.parent.mkdir()
    path.write_bytes(OLD)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(*((os, "fsync", full) if call == "fsync" else (Path, "write_text", full)))
    with pytest.raises(InputError) as found:
        write_text("new", path)
    disk = next(folder for folder in path.parents if folder.is_mount())
    assert str(found.value) == (
        f"{path}: cannot be written (No space left on device); make room on {disk} and run again: "
        "nothing that was finished is lost"
    )
    assert path.read_bytes() == OLD
    assert [p.name for p in path.parent.iterdir()] == ["a.csv"]


def test_an_error_of_another_kind_is_not_taken_for_one_of_the_disk(tmp_path):
    with pytest.raises(FileNotFoundError), atomic(tmp_path / "a") as partial:
        partial.write_bytes((tmp_path / "not there").read_bytes())


def in_its_place(kind: str, folder: Path) -> None:
    """What somebody else may have put where our folder would be."""
    if kind == "file":
        folder.touch()
    elif kind == "link":
        (folder.parent / "somewhere").mkdir(mode=0o700)
        folder.symlink_to(folder.parent / "somewhere")
    elif kind == "dangling link":
        folder.symlink_to(folder.parent / "nowhere")
    elif kind == "open folder":
        folder.mkdir()
        folder.chmod(0o777)
    elif kind == "foreign folder":
        folder.mkdir(mode=0o700)
        os.chown(folder, 12345, 12345)


@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "open folder", "foreign folder"])
def test_locks_and_sockets_are_only_where_this_user_alone_can_write(kind, tmp_path, monkeypatch):
    if kind == "foreign folder" and os.getuid():
        pytest.skip("only root can give a folder away")
    for name in ("tmp", "home"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    usual = tmp_path / f"tmp/prrmse-{os.getuid()}"
    assert own_folder() == usual
    usual.rmdir()
    in_its_place(kind, usual)
    cache = tmp_path / "home/.cache/prrmse"
    assert own_folder() == cache
    assert cache.stat().st_mode & 0o777 == 0o700
    cache.chmod(0o755)
    assert own_folder() is None


def test_a_user_without_a_home_has_a_folder_for_locks_or_none(tmp_path, monkeypatch):
    """In a container with a number for a user there is neither HOME nor a line of /etc/passwd."""

    def unknown(_):
        raise KeyError

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = own_folder()
    assert folder == tmp_path / f"prrmse-{os.getuid()}"
    folder.rmdir()
    folder.touch()
    assert own_folder() is None
