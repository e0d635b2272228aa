"""Damaged, odd and hostile inputs into every reader and into the command line: how does each case end?

``python tests/torture/inputs.py --cases 20000 --seed 0 [--reader NAME ...]`` prints a Markdown table of the outcomes,
then each bad one; with ``--add FILE.csv`` they are added to those of other seeds. A case is repeated, with its
traceback, by ``--reader NAME --only NUMBER`` and the same seed; ``--valid`` reads the inputs unchanged.

A case is a valid input, changed (`mutations`) or given a defect that can be told and so must be refused (`DEFECTS`).
Cases run in forks of one process, each fork with `MEMORY` more bytes than it starts with, each case with `SECONDS`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import logging
import os
import random
import resource
import select
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import cohorts
import h5py
import nibabel as nib
import numpy as np
import torch
import yaml
from damage import small, write_image, write_nnunet
from safetensors.torch import load_file, save_file
from torture import mutations as m
from torture.tally import Tally

from prrmse import api
from prrmse.cli import commands
from prrmse.cli.main import main as command_line
from prrmse.config.params import read_params, use_params
from prrmse.data.prepare import prepare, summary
from prrmse.data.slices import load_slices, save_slices
from prrmse.errors import InputError
from prrmse.failures import DEFECT, FIX, one_line
from prrmse.learning.freeze import Freezing
from prrmse.nets.arrays import read_arrays
from prrmse.nets.build import build
from prrmse.nets.checkpoint import load_network, save_checkpoint
from prrmse.nets.foreign import read_state
from prrmse.nets.layers import inventory
from prrmse.run.difference import compare_runs
from prrmse.settings import Dataset, Split
from prrmse.tables.store import read_tables

PARAMS = Path(__file__).parents[2] / "params.yaml"
# Of a case: seconds of the CPU, and of waiting for anything but the CPU; bytes.
SECONDS, WAITING, MEMORY = 10, 20, 2**31
# So long afterwards a fork is ended that does not end itself: it hangs outside of Python.
GRACE = 5
BATCH = 100
OUTCOMES = ("accepted", "one line", "silent", "vague", "traceback", "signal", "hang", "memory")
FINE = ("accepted", "one line")


class Reader(NamedTuple):
    """What is fuzzed.

    ``write``: makes valid inputs in a folder. ``files``: those to change, as patterns. ``read``: opens all in the
    folder as the program does. ``changes``: for these files; the raw ones of `mutations` are added. ``defects``: by
    name, what makes an input in the folder wrong so that it must be refused. ``names``: one of them is in every
    refusal, if the folder's path is not.
    """

    write: Callable[[Path], object]
    files: tuple[str, ...]
    read: Callable[[Path], object]
    changes: tuple[m.Mutation, ...] = ()
    defects: dict[str, Callable[[Path], object]] = {}  # noqa: RUF012 (a named tuple's default)
    names: tuple[str, ...] = ()


class RefusedError(Exception):
    """The command line ended with status 2; the one line."""


class OddEndError(Exception):
    """The command line ended as it must not: a defect, or more or less than one line."""


def cli(*arguments: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = command_line(list(arguments))
        except SystemExit as e:
            status = e.code if isinstance(e.code, int) else 0
    said = [line for line in err.getvalue().splitlines() if line]
    if status == DEFECT:
        raise OddEndError(err.getvalue())
    if status == FIX:
        if len([line for line in said if line.startswith("error: ")]) != 1 or not said[-1].startswith("error: "):
            raise InputError("NOT ONE LINE: " + err.getvalue())
        raise RefusedError(said[-1])


# --- data sets ---


def spec(form: str, root: Path, **more: Any) -> Dataset:
    split = Split(kind="random", train=0.5, val=0.5)
    return Dataset(
        format=form, root=str(root), provenance="synthetic", spacing_mm=1.5, size=16, **{"split": split, **more}
    )  # type: ignore[arg-type]


def prepared(form: str, root: Path, **more: Any) -> None:
    summary(prepare("x", spec(form, root, **more)))


def edit(path: Path, change: Callable[[Any], object]) -> None:
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def relabelled(text: str) -> Callable[[Path], object]:
    return lambda root: (root / "dataset.json").write_text(
        (root / "dataset.json").read_text().replace('{"background": 0, "a": 1, "b": 2}', text)
    )


def replaced(old: str, new: str) -> Callable[[Path], object]:
    """An image or label of the set written anew."""

    def change(root: Path) -> None:
        (path,) = sorted(root.glob(old))
        image, label = small()
        voxels: Any = (label if "labels" in old else image).copy()
        if new == "nan":
            voxels = voxels.astype(float)
            voxels[0, 0, 0] = np.nan
        elif new == "value":
            voxels[0, 0, 0] = 7
        elif new == "shape":
            voxels = voxels[:, :-1]
        write_image(path, voxels)

    return change


def placed(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], object]:
    """The label of the first case with another affine."""

    def act(root: Path) -> None:
        path = sorted((root / "labelsTr").iterdir())[0]
        image = nib.load(path)
        nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), change(image.affine.copy())), path)  # type: ignore[attr-defined]

    return act


def scaled(*factors: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda affine: affine @ np.diag([*factors, 1.0])


def moved(affine: np.ndarray) -> np.ndarray:
    affine[0, 3] += 50
    return affine


OF_FOLDER: dict[str, Callable[[Path], object]] = {
    "two classes of one name": relabelled('{"background": 0, "a": 1, "a": 2}'),
    "a class called background": relabelled('{"background": 0, "a": 1, "background": 2}'),
    "a class called Background": relabelled('{"background": 0, "a": 1, "Background": 2}'),
    "a class called mean": relabelled('{"background": 0, "mean": 1, "b": 2}'),
    "two classes of one number": relabelled('{"background": 0, "a": 1, "b": 1}'),
    "a value without a class": relabelled('{"background": 0, "a": 1}'),
    "an image without a label": lambda root: next((root / "labelsTr").glob("p1.*")).unlink(),
    "a label without an image": lambda root: next((root / "imagesTr").glob("p1_*")).unlink(),
    "a channel too many": lambda root: shutil.copy(
        next((root / "imagesTr").glob("p1_0000*")),
        str(next((root / "imagesTr").glob("p1_0000*"))).replace("_0000", "_0001"),
    ),
}
OF_IMAGES = {
    "an undeclared value": replaced("labelsTr/p1.*", "value"),
    "a label of another shape": replaced("labelsTr/p1.*", "shape"),
}
PLACED = {
    "NaN in an image": replaced("imagesTr/p1_*", "nan"),
    "a flipped label": placed(scaled(-1, 1, 1)),
    "a label of doubled spacing": placed(scaled(2, 2, 1)),
    "a label 50 mm away": placed(moved),
}


def nnunet(ending: str, *changes: m.Mutation, defects: dict[str, Callable[[Path], object]] | None = None) -> Reader:
    files = (f"imagesTr/*{ending}", f"labelsTr/*{ending}")
    of_folder = dict(OF_FOLDER)
    if ending in (".png", ".bmp"):  # of one slice, which does not hold that class
        del of_folder["a value without a class"]
    return Reader(
        lambda root: write_nnunet(root, ending),
        files,
        functools.partial(prepared, "nnunet"),
        changes,
        {**of_folder, **OF_IMAGES, **(defects or {})},
    )


def write_acdc(root: Path) -> None:
    for number in (1, 2):
        folder = root / f"patient{number:03d}"
        cohorts.write_acdc_patient(folder)
        (folder / f"{folder.name}_4d.nii.gz").unlink()


def write_rvsc(root: Path) -> None:
    for number in (1, 2):
        cohorts.write_rvsc_patient(root / "TrainingSet", number, frames=(80, 87))


def exchanged(root: Path) -> None:
    folder = root / "TrainingSet/patient01/P01contours-manual"
    one, two = (folder / f"P01-0080-{kind}contour-manual.txt" for kind in "io")
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)


def outside(root: Path) -> None:
    path = root / "TrainingSet/patient01/P01contours-manual/P01-0080-ocontour-manual.txt"
    path.write_text("0 0\n0 1000\n1000 1000\n")


def elsewhere(root: Path) -> None:
    with h5py.File(root / "T1.mat", "r+") as file:
        image = file["#refs#/Img0"]
        stored = file.create_dataset("y", image.shape, "f8", external=[("/dev/zero", 0, 8 * image.size)])
        file["Dataset/Img"][0, 0] = stored.ref


def write_npz(root: Path) -> None:
    write_nnunet(root / "raw", ".nii.gz")
    slices = prepare("x", spec("nnunet", root / "raw"))
    shutil.rmtree(root / "raw")
    save_slices(slices, root / "x.npz")


def read_npz(root: Path) -> None:
    slices = load_slices(root / "x.npz")
    summary(slices)
    slices.split("train")
    slices.fingerprint()


def in_npz(**changes: Callable[[Any], Any]) -> Callable[[Path], object]:
    def act(root: Path) -> None:
        found = dict(np.load(root / "x.npz"))
        np.savez(root / "x.npz", **{**found, **{name: change(found[name]) for name, change in changes.items()}})

    return act


def write_split(root: Path) -> None:
    write_nnunet(root / "set", ".nii")
    (root / "split.csv").write_text("patient,split\np1,train\np2,val\n")


def read_split(root: Path) -> None:
    prepared("nnunet", root / "set", split=Split(kind="file", path=str(root / "split.csv")))


def text_of(path: str, old: str, new: str) -> Callable[[Path], object]:
    return lambda root: (root / path).write_text((root / path).read_text().replace(old, new, 1))


# --- checkpoints and lists ---


@functools.cache
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build("unet", width=2).eval()


def write_own(root: Path) -> None:
    layers = [layer._asdict() for layer in inventory(network())]
    save_checkpoint(network(), root / "own.safetensors", {"net": "unet", "arguments": {"width": 2}, "layers": layers})


def read_own(root: Path) -> None:
    path = root / "own.safetensors"
    load_network(path)
    read_arrays(path)
    api.inspect(path)


def headed(**changes: Any) -> Callable[[Path], object]:
    def act(root: Path) -> None:
        header = {**read_arrays(root / "own.safetensors")[1], **changes}
        save_file(
            load_file(root / "own.safetensors"), root / "own.safetensors", metadata={"prrmse": json.dumps(header)}
        )

    return act


def foreign_state() -> dict[str, torch.Tensor]:
    state = {
        "a.weight": torch.ones(4, 1, 3, 3),
        "a.bias": torch.zeros(4),
        "n.weight": torch.ones(4),
        "n.bias": torch.zeros(4),
    }
    return {
        **state,
        "n.running_mean": torch.zeros(4),
        "n.running_var": torch.ones(4),
        "n.num_batches_tracked": torch.tensor(3),
    }


def saved(name: str, *, old: bool = False, wrap: bool = False) -> Callable[[Path], object]:
    def act(root: Path) -> None:
        state: Any = {"state_dict": foreign_state(), "epoch": 3, "optimizer": {"lr": 0.1}} if wrap else foreign_state()
        torch.save(state, root / name, _use_new_zipfile_serialization=not old)

    return act


def read_foreign(name: str) -> Callable[[Path], object]:
    def act(root: Path) -> None:
        read_state(root / name)
        api.inspect(root / name)

    return act


def wide(root: Path) -> None:
    torch.save({"a.weight": torch.zeros(1).expand(2**40).view(2**40, 1, 1, 1)}, root / "x.pt")


def write_advice(root: Path) -> None:
    write_own(root)
    verdicts = [
        {"source": "a", "tensor": x.tensor, "final": x.final, "reusable": True, "effect": True}
        for x in inventory(network())
    ]
    own = str(root / "own.safetensors")
    text = {"target": own, "sources": {"a": own}, "ranking": [{"source": "a"}], "entries": [], "verdicts": verdicts[:6]}
    (root / "advice.json").write_text(json.dumps(text))


def read_advice(root: Path) -> None:
    found = commands.advised(str(root / "advice.json"), None, inventory(network()))
    api.warmstart(network(), found.file, found.layers, root / "out.safetensors")


def write_freeze(root: Path) -> None:
    names = [x.tensor for x in inventory(network())]
    (root / "freeze.json").write_text(
        json.dumps({"reused": names[:5], "frozen": names[:5], "freeze": [], "freeze_statistics": [], "note": ""})
    )


def read_freeze(root: Path) -> None:
    names = set(commands.listed_tensors(str(root / "freeze.json")))
    Freezing(network(), [x for x in inventory(network()) if x.tensor in names], "both")


# --- parameters, tables, manifests ---


def write_params(root: Path) -> None:
    (root / "params.yaml").write_bytes(PARAMS.read_bytes())


def read_all_params(root: Path) -> None:
    read_params(root / "params.yaml")
    cli("check", str(root / "params.yaml"))


def write_overlay(root: Path) -> None:
    write_params(root)
    (root / "more.yaml").write_text("verdict: {tolerance: 0.1}\nbase:\n  steps: 5\nseeds: [1, 2]\n")


def read_overlay(root: Path) -> None:
    use_params(root / "more.yaml", root / "params.yaml")
    read_params(root / "params.yaml")


def in_params(change: Callable[[Any], object]) -> Callable[[Path], object]:
    def act(root: Path) -> None:
        params = yaml.safe_load((root / "params.yaml").read_text())
        change(params)
        (root / "params.yaml").write_text(yaml.safe_dump(params))

    return act


def appended(text: str) -> Callable[[Path], object]:
    def act(root: Path) -> None:
        with open(root / "params.yaml", "a") as file:
            file.write(text)

    return act


ALIASES = "\n".join(f"x{i}: &x{i} [{','.join([f'*x{i - 1}' if i else 'y'] * 10)}]" for i in range(9))
OF_PARAMS: dict[str, Callable[[Path], object]] = {
    "a key twice": appended("\nseeds: [5]\n"),
    "references that multiply": appended(f"\n{ALIASES}\n"),
    "NaN": in_params(lambda p: p["verdict"].update(tolerance=float("nan"))),
    "infinity": in_params(lambda p: p["base"].update(learning_rate=float("inf"))),
    "a NaN spacing": in_params(lambda p: p["datasets"]["acdc"].update(spacing_mm=float("nan"))),
    "a negative spacing": in_params(lambda p: p["datasets"]["acdc"].update(spacing_mm=-1.0)),
    "two phantoms in one folder": in_params(lambda p: p["datasets"]["t1"].update(root="./data/phantom/acdc")),
    "a program as network": in_params(lambda p: p["nets"].update(x={"factory": "os:system", "out_channels": 4})),
    "an unknown key": in_params(lambda p: p.update(x=1)),
    "more steps than can be": in_params(lambda p: p["base"].update(steps=10**15)),
}


def write_table(root: Path) -> None:
    rows = [f"W,{i},enc.{i},False,{0.5 + i / 100},a b,none" for i in range(20)]
    (root / "a.csv").write_text("\n".join(["kind,layer,module,final,dice,name,source", *rows]) + "\n")


def write_run(root: Path) -> None:
    for run in ("one", "two"):
        (root / run / "results").mkdir(parents=True)
        write_own(root / run / "results")
        write_npz(root / run / "results")
        write_table(root / run / "results")
        files = {f"results/{name}": f"{run}{i}" for i, name in enumerate(["a.csv", "own.safetensors", "x.npz"])}
        text = {
            "commit": "abc",
            "changed": [],
            "environment": {"python": "3"},
            "params": {"seeds": [0]},
            "files": files,
        }
        (root / run / "results/manifest.json").write_text(json.dumps(text))


def first_differs(root: Path, name: str) -> None:
    """Let the runs differ first in this file."""
    for run in ("one", "two"):
        path = root / run / "results/manifest.json"
        with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, OSError):
            edit(path, lambda v: v.update(files={name: v["files"][name]}))


def read_run(root: Path) -> None:
    compare_runs(root / "one", root / "two")
    for name in ("results/own.safetensors", "results/x.npz"):
        first_differs(root, name)
        compare_runs(root / "one", root / "two")


# --- the command line ---

WORDS = [
    "", "x", "-1", "0", "nan", "inf", "1e400", "9" * 400, "a\0b", "..", "/", "/proc/x.csv", "/dev/null",
    "x" * 300 + ".csv", "\u00fc.csv",
    "--json", "-h?", "{", "[]", "null", '{"width": -1}', '{"width": "a"}', '{"x": 1}', '{"width": 100000000000}',
    "os:system", ":",
    "..a:b", "no.such:x", "torch.nn:ReLU", "own.safetensors", "x.pt", "x.npz", "set", "none.pth", "w.json",
    "out.csv", "out.png",
    "W1,RM2", "W99", ",", "\udcff", "1 2", "*", "$(x)", "cuda", "\u202e", "@x", "=", "--", "-", "1.5", "17", "4096",
]  # fmt: skip
COMMANDS = [
    ["inspect", "own.safetensors"], ["inspect", "x.pt", "--json"], ["compare", "own.safetensors", "own.safetensors",
    "--figure", "out.svg"],
    ["sweep", "own.safetensors", "own.safetensors", "--data", "x.npz", "--table", "out.csv", "--threads", "1",
    "--split", "val"],
    ["sweep", "own.safetensors", "x.pt", "--network", "unet", "--arguments", '{"width": 2}', "--data", "set",
    "--size", "16", "--batch", "4"],
    ["advise", "own.safetensors", "own.safetensors", "--data", "x.npz", "--out", "out.json", "--tolerance", "0.05",
    "--memory-mb", "500"],
    ["warmstart", "own.safetensors", "--source", "own.safetensors", "--out", "w.safetensors", "--exclude", "W1"],
    ["warmstart", "--network", "unet", "--arguments", '{"width": 2}', "--source", "own.safetensors", "--out",
    "w.safetensors", "--seed", "1"],
    ["train", "--network", "unet", "--arguments", '{"width": 2}', "--data", "x.npz", "--steps", "1", "--batch", "2",
    "--out", "t.safetensors",
     "--samples", "1", "--learning-rate", "0.001", "--threads", "1", "--start", "own.safetensors"],
    ["check", "params.yaml"], ["use", "more.yaml"], ["diff", "one", "two"], ["params"],
]  # fmt: skip


def write_commands(root: Path) -> None:
    for write in (
        write_own,
        lambda root: torch.save(network().state_dict(), root / "x.pt"),
        write_npz,
        write_overlay,
        write_run,
    ):
        write(root)
    write_nnunet(root / "set", ".nii")


def arguments_of(r: random.Random) -> list[str]:
    """A valid call with up to three arguments replaced, dropped, doubled or added."""
    call = list(r.choice(COMMANDS))
    for _ in range(r.choice([0, *(1,) * 12, *(2,) * 4, *(3,) * 3])):
        at = r.randrange(len(call))
        kind = r.randrange(6)
        if kind < 3:
            call[at] = r.choice(WORDS)
        elif kind == 3:
            del call[at]
        elif kind == 4:
            call.insert(at, r.choice(call))
        else:
            call.insert(at, r.choice(WORDS))
        if not call:
            break
    return call


READERS: dict[str, Reader] = {
    "params.yaml": Reader(
        write_params,
        ("params.yaml",),
        read_all_params,
        (m.yaml_text,) * 20,
        OF_PARAMS,
        ("params.yaml", "nets.", "datasets."),
    ),
    "overlay of params": Reader(write_overlay, ("more.yaml",), read_overlay, (m.yaml_text,) * 10, names=("more.yaml",)),
    "dataset.json": Reader(
        lambda root: write_nnunet(root, ".nii"),
        ("dataset.json",),
        functools.partial(prepared, "nnunet"),
        (m.json_text,) * 20,
        {**OF_FOLDER, **OF_IMAGES, **PLACED},
    ),
    "NIfTI, packed": nnunet(".nii.gz", *(m.nifti_header,) * 14, *(m.nifti_voxels,) * 4, m.gzip_members, defects=PLACED),
    "NIfTI": nnunet(".nii", *(m.nifti_header,) * 14, defects=PLACED),
    "MetaImage": nnunet(".mha", *(m.ascii_header,) * 10),
    "NRRD": nnunet(".nrrd", *(m.ascii_header,) * 10),
    "PNG": nnunet(".png", *(m.png_chunks,) * 6),
    "BMP": nnunet(".bmp"),
    "TIFF": nnunet(".tif"),
    "ACDC": Reader(
        write_acdc,
        ("*/Info.cfg", "*/*.nii.gz"),
        functools.partial(prepared, "acdc"),
        (m.text_lines, m.nifti_header),
    ),
    "DICOM": Reader(write_rvsc, ("**/*.dcm",), functools.partial(prepared, "rvsc"), (m.dicom_fields,) * 12),
    "contours": Reader(
        write_rvsc,
        ("**/*.txt",),
        functools.partial(prepared, "rvsc"),
        (m.text_lines,) * 12,
        {"exchanged contours": exchanged, "a contour outside the image": outside},
    ),
    "MATLAB": Reader(
        lambda root: cohorts.write_t1(root / "T1.mat", patients=2, slices=1, times=2),
        ("T1.mat",),
        functools.partial(prepared, "t1"),
        (m.hdf5_objects,) * 20,
        {"pixels in another file": elsewhere},
    ),
    "processed .npz": Reader(
        write_npz,
        ("x.npz",),
        read_npz,
        (*(m.npy_header,) * 8, *(m.zip_members,) * 6),
        {
            "NaN pixels": in_npz(image=lambda x: x * np.nan),
            "an undeclared label": in_npz(label=lambda x: x + 7),
            "labels of fewer slices": in_npz(label=lambda x: x[:1]),
            "a split of no name": in_npz(index_split=lambda x: np.full(x.shape, "dev")),
            "a patient on both sides": in_npz(index_patient=lambda x: np.full(x.shape, "p1")),
        },
    ),
    "split.csv": Reader(
        write_split,
        ("split.csv",),
        read_split,
        (m.text_lines,) * 10,
        {
            "a patient twice": text_of("split.csv", "p2,val", "p1,val\np2,val"),
            "an unknown patient": text_of("split.csv", "p2,val", "p9,val\np2,val"),
            "an unknown split": text_of("split.csv", "p2,val", "p2,dev"),
            "nobody validates": text_of("split.csv", "p2,val", "p2,train"),
        },
        ("split.csv", "split"),
    ),
    "own checkpoint": Reader(
        write_own,
        ("own.safetensors",),
        read_own,
        (m.safetensors_header,) * 24,
        {
            "a wide network": headed(arguments={"width": 20_000}),
            "another network": headed(net="pspnet"),
            "code to import": headed(factory="os:system"),
            "other layers": headed(layers=[{"kind": "W"}]),
        },
    ),
    "safetensors": Reader(
        lambda root: save_file(foreign_state(), root / "x.safetensors"),
        ("x.safetensors",),
        read_foreign("x.safetensors"),
        (m.safetensors_header,) * 20,
    ),
    "torch.save": Reader(
        saved("x.pt", wrap=True), ("x.pt",), read_foreign("x.pt"), (m.zip_members,) * 16, {"8 TB": wide}
    ),
    "torch.save before 1.6": Reader(saved("x.pth", old=True), ("x.pth",), read_foreign("x.pth")),
    "advice": Reader(
        write_advice,
        ("advice.json",),
        read_advice,
        (m.json_text,) * 14,
        {"a key twice": text_of("advice.json", '"ranking"', '"sources": {}, "ranking"')},
        names=("own.safetensors", "cannot be read", "no such file"),
    ),
    "list to freeze": Reader(
        write_freeze,
        ("freeze.json",),
        read_freeze,
        (m.json_text,) * 14,
        {"a key twice": text_of("freeze.json", '"freeze"', '"reused": [], "freeze"')},
    ),
    "table": Reader(write_table, ("a.csv",), lambda root: read_tables([root / "a.csv"]), (m.text_lines,) * 10),
    "manifest": Reader(
        write_run,
        ("one/results/manifest.json", "one/results/a.csv", "one/results/x.npz", "one/results/own.safetensors"),
        read_run,
    ),
    "command line": Reader(write_commands, (), lambda root: [cli(*call) for call in COMMANDS]),
}


# --- running ---


class TooLongError(BaseException):
    """Not an `Exception`, so that no reader takes it for a damaged file."""


def too_long(*_: object) -> None:
    raise TooLongError


class Clock:
    """The seconds for which a process has computed, and waited for anything but a core, since this was made."""

    def __init__(self, process: int | str = "self") -> None:
        self.file, self.begin = f"/proc/{process}/schedstat", time.monotonic()
        self.computed_before, self.queued_before = self._read()

    def _read(self) -> tuple[float, float]:
        computed, queued, _ = Path(self.file).read_text().split()
        return int(computed) / 1e9, int(queued) / 1e9

    def computed(self) -> float:
        return self._read()[0] - self.computed_before

    def waited(self) -> float:
        computed, queued = self._read()
        return time.monotonic() - self.begin - (computed - self.computed_before) - (queued - self.queued_before)


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Context that raises `TooLongError` after `SECONDS` of computing or `WAITING` of waiting."""
    clock = Clock()

    def look(*_: object) -> None:
        if (left := WAITING - clock.waited()) <= 0:
            raise TooLongError
        signal.setitimer(signal.ITIMER_REAL, left + 0.1)

    signal.signal(signal.SIGPROF, too_long)
    signal.signal(signal.SIGALRM, look)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAITING)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def changed(reader: Reader, root: Path, r: random.Random) -> tuple[str, bool]:
    """Change an input in the folder; what was done, and whether it must be refused."""
    if reader.defects and r.random() < 0.1:
        name = r.choice(list(reader.defects))
        reader.defects[name](root)
        return name, True
    files = sorted({path for pattern in reader.files for path in root.glob(pattern)})
    path = r.choice(files)
    if r.random() < 0.04:
        return f"{m.odd_kind_of_file(path, r)}: {path.name}", False
    suited = [f for f in reader.changes if f is not m.text_lines or path.suffix in (".txt", ".cfg", ".csv")]
    suited = [f for f in suited if f is not m.nifti_header or ".nii" in path.name]
    change = r.choice([*m.RAW, *suited])
    path.write_bytes(change(path.read_bytes(), r))
    return f"{change.__name__}: {path.name}", False


def outcome(name: str, base: Path, work: Path, number: int, seed: int, *, show: bool = False) -> tuple[str, str]:
    """Run one case; its outcome and a text for people."""
    reader, r = READERS[name], random.Random(f"{name} {seed} {number}")
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(base, work)
    os.chdir(work)
    must_be_refused = False
    if name == "command line":
        call = arguments_of(r)
        what, read = " ".join(call)[:200], functools.partial(cli, *call)
    else:
        what, must_be_refused = changed(reader, work, r)
        read = functools.partial(reader.read, work)
    try:
        with limited():
            read()
        found, text = ("silent" if must_be_refused else "accepted"), ""
    except (InputError, RefusedError) as e:
        text = str(e)
        found = "one line" if is_good(text, name, work, reader) else "vague"
        # Options may ask for more than there is (images of 4096 x 4096 pixels, a network), if that is then said.
        said = text.startswith(("error: out of memory", "error: network "))
        if is_of_memory(text) and not (name == "command line" and said):
            found = "memory"
    except TooLongError:
        found, text = "hang", " < ".join(f.name for f in reversed(traceback.extract_tb(sys.exc_info()[2])[-6:]))
    except MemoryError as e:
        found, text = "memory", repr(e)
    except Exception as e:
        if show:
            traceback.print_exc()
        place = [
            f"{Path(f.filename).name}:{f.lineno}"
            for f in traceback.extract_tb(e.__traceback__)
            if "prrmse" in f.filename
        ]
        found, text = (
            "memory" if is_of_memory(str(e)) else "traceback",
            f"{type(e).__name__}: {e} at {' < '.join(reversed(place[-3:]))}",
        )
    if (work / "RAN").exists():
        found = "signal"
        text = "CODE WAS RUN"
    return found, f"{what} -> {text[:400]}"


def is_of_memory(text: str) -> bool:
    """Whether an error came from the limit, whatever was made of it."""
    return any(
        x in text for x in ("MemoryError", "nable to allocate", "ried to allocate", "out of memory", "bad_alloc")
    )


def is_good(text: str, name: str, work: Path, reader: Reader) -> bool:
    """One line of moderate length that names a file, a key or an option."""
    named = name == "command line" or any(x in text for x in (str(work), work.name, *reader.names))
    return named and len(one_line(text).splitlines()) == 1


def batch(name: str, numbers: range, seed: int, base: Path, work: Path) -> Iterator[tuple[int, str, str]]:
    """Outcomes of cases, run in a fork; in another one after a case that ended it."""
    waiting = list(numbers)
    while waiting:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            work_off(name, waiting, seed, base, work, writing)
        os.close(writing)
        done, clock = 0, Clock(child)
        with open(reading, "rb", buffering=0) as stream:
            content = b""
            while True:
                ready, _, _ = select.select([stream], [], [], GRACE)
                part = stream.read(65536) if ready else None
                if not ready and clock.computed() < SECONDS + GRACE and clock.waited() < WAITING + GRACE:
                    continue
                if not part:
                    break
                clock = Clock(child)
                *lines, content = (content + part).split(b"\n")
                for line in lines:
                    found, text = json.loads(line)
                    yield waiting[done], found, text
                    done += 1
        if part is None:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if done < len(waiting):
            number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else -os.WEXITSTATUS(status)
            yield waiting[done], "hang" if part is None else "signal", f"the process ended by {number}"
            done += 1
        waiting = waiting[done:]


def work_off(name: str, numbers: list[int], seed: int, base: Path, work: Path, writing: int) -> None:
    """Be the fork: run the cases, write a line for each, end."""
    try:
        with open("/proc/self/status") as status:
            used = next(int(line.split()[1]) for line in status if line.startswith("VmSize")) * 1024
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
        nowhere = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nowhere, stream)
        os.environ["TMPDIR"] = str(work.parent)
        tempfile.tempdir = str(work.parent)
        for number in numbers:
            found = outcome(name, base, work, number, seed)
            os.write(writing, json.dumps(found).encode() + b"\n")
    finally:
        os._exit(0)


def run(
    names: list[str], cases: int, seed: int, folder: Path, seconds: float = float("inf")
) -> dict[str, list[tuple[int, str, str]]]:
    """Outcomes (number, outcome, text) by reader, of as many cases as there is time for, equally many of each.

    Args:
        names: of `READERS`.
        cases: in all.
        seed: of everything.
        folder: for the inputs.
        seconds: after which no batch is started but the first of each reader.
    """
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    torch.set_num_threads(1)
    each = -(-cases // len(names))
    found: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    start = time.monotonic()
    for place, name in enumerate(names):
        (folder / f"base{place}").mkdir(parents=True)
        READERS[name].write(folder / f"base{place}")
    for first in range(0, each, BATCH):
        for place, name in enumerate(names):
            if first == 0 or time.monotonic() - start < seconds:
                numbers = range(first, min(each, first + BATCH))
                found[name] += batch(name, numbers, seed, folder / f"base{place}", folder / f"work{place}")
    return found


def bad(found: dict[str, list[tuple[int, str, str]]]) -> list[str]:
    """Each case that must not end as it did."""
    return [f"{name} {n}: {x}: {text}" for name, rows in found.items() for n, x, text in rows if x not in FINE]


def main() -> int:
    """The command; status 1 if a case ended badly."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", type=int, default=5000, help="in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=float("inf"), help="start no batch after so many")
    parser.add_argument("--reader", action="append", choices=list(READERS))
    parser.add_argument("--only", type=int, help="repeat the case of this number")
    parser.add_argument("--add", type=Path, help="a CSV file of outcomes to add to")
    parser.add_argument("--valid", action="store_true", help="read the inputs unchanged")
    a = parser.parse_args()
    names = a.reader or list(READERS)
    with tempfile.TemporaryDirectory(prefix="prrmse-inputs-") as folder:
        if a.valid:
            logging.disable(logging.CRITICAL)
            for name in names:
                base = Path(folder) / name
                base.mkdir()
                READERS[name].write(base)
                os.chdir(base)
                READERS[name].read(base)
            os.chdir("/")
            return 0
        if a.only is not None:
            (Path(folder) / "base").mkdir()
            READERS[names[0]].write(Path(folder) / "base")
            os.environ["PRRMSE_DEBUG"] = "1"
            print(outcome(names[0], Path(folder) / "base", Path(folder) / "work", a.only, a.seed, show=True))
            os.chdir("/")
            return 0
        tally = Tally(["reader"], a.seed, a.add)
        found = run(names, a.cases, a.seed, Path(folder), a.seconds)
    for name, rows in found.items():
        counts = Counter(outcome for _, outcome, _ in rows)
        tally.add({"reader": name, "cases": len(rows), **{outcome: counts[outcome] for outcome in OUTCOMES}})
    print(tally)
    lines = [ascii(line)[1:-1] for line in bad(found)]
    print("\n".join(lines))
    return int(bool(lines))


if __name__ == "__main__":
    sys.exit(main())
