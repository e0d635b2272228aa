"""Checkpoints written by nnU-Net itself: planned, preprocessed and trained for one short epoch on the CPU.

Run as a script in its own process, since nnU-Net reads its folders and worker counts from the environment on import.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

NAME = "Dataset001_Squares"
NETWORK = "nnunetv2.utilities.get_network_from_plans:get_network_from_plans"
PATIENTS, SIZE, DEPTH = 6, 40, 4


class NnunetRun(NamedTuple):
    """The dataset in nnU-Net's layout, the plans for it, the final files of two trainings, and where they ran."""

    raw: Path
    plans: dict[str, Any]
    checkpoints: tuple[Path, Path]
    folders: dict[str, Path]
    environment: dict[str, str]

    def arguments(self) -> dict[str, Any]:
        """JSON-able arguments of `NETWORK` for the 2D network that the plans describe, without deep supervision."""
        architecture = self.plans["configurations"]["2d"]["architecture"]
        return {
            "arch_class_name": architecture["network_class_name"],
            "arch_kwargs": architecture["arch_kwargs"],
            "arch_kwargs_req_import": architecture["_kw_requires_import"],
            "input_channels": 1,
            "output_channels": 3,
            "deep_supervision": False,
        }


def write_dataset(raw: Path) -> None:
    """Small volumes, a bright square in noise; two classes."""
    import SimpleITK

    rng = np.random.default_rng(0)
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    for number in range(PATIENTS):
        label = np.zeros((DEPTH, SIZE, SIZE), np.uint8)
        row, column = rng.integers(6, 14, 2)
        label[:, row : row + 20, column : column + 18], label[:, row + 5 : row + 12, column + 5 : column + 12] = 1, 2
        image = (100 * label + 20 * rng.standard_normal(label.shape)).astype(np.float32)
        for folder, voxels, ending in (("imagesTr", image, "_0000"), ("labelsTr", label, "")):
            volume = SimpleITK.GetImageFromArray(voxels)
            volume.SetSpacing((1.5, 1.5, 8.0))
            SimpleITK.WriteImage(volume, raw / folder / f"patient{number:03d}{ending}.nii.gz")
    content = {
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "muscle": 1, "cavity": 2},
        "numTraining": PATIENTS,
        "file_ending": ".nii.gz",
    }
    (raw / "dataset.json").write_text(json.dumps(content))


def fork_workers() -> None:
    """nnU-Net asks for "spawn", where each worker imports torch again: most of the time of so small a run."""
    forking = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda method=None: forking


def plan_and_train() -> None:
    """nnU-Net's own planning, preprocessing and training; its ``save_checkpoint`` writes the files."""
    fork_workers()
    import torch
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess,
    )
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.set_num_threads(1)
    extract_fingerprints([1], num_processes=1, verbose=False, show_progress_bar=False)
    plans = plan_experiments([1], gpu_memory_target_in_gb=0.5)
    preprocess([1], plans, configurations=("2d",), num_processes=(1,), show_progress_bar=False)
    os.environ.update(nnUNet_n_proc_DA="0")  # batches are made in this process; planning insists on at least one
    for fold in (0, 1):
        trainer = get_trainer_from_args(NAME, "2d", fold, plans_identifier=plans, device=torch.device("cpu"))
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, 2, 1
        trainer.run_training()


def train_from(folder: str, plans: str, *names: str) -> None:
    """What ``nnUNetv2_train -tr NAME -pretrained_weights NAME.pth`` does, for two short epochs; at last without a file.

    Writes each network's state after loading and after training to ``NAME_loaded.pth`` and ``NAME_trained.pth``.
    """
    fork_workers()
    import torch
    from nnunetv2.run.run_training import get_trainer_from_args, maybe_load_checkpoint

    torch.set_num_threads(1)
    os.environ.update(nnUNet_n_proc_DA="0")

    def made(name: str, weights: str | None) -> Any:
        trainer = get_trainer_from_args(NAME, "2d", 0, name, plans, device=torch.device("cpu"))
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 2, 1, 1
        if hasattr(trainer, "warmup_duration_whole_net"):
            trainer.warmup_duration_whole_net = 1
        maybe_load_checkpoint(trainer, False, False, weights)
        return trainer

    for name in names:
        trainer = made(name, f"{folder}/{name}.pth")
        torch.save(trainer.network.state_dict(), f"{name}_loaded.pth")
        trainer.run_training()
        torch.save(trainer.network.state_dict(), f"{name}_trained.pth")
    try:
        made(names[0], None).run_training()
    except ValueError as e:
        print(f"error: {e}")


@pytest.fixture(scope="session")
def nnunet_run(tmp_path_factory: pytest.TempPathFactory) -> NnunetRun:
    """Two trainings (folds 0 and 1) of one dataset by the installed nnU-Net."""
    root = tmp_path_factory.mktemp("nnunet")
    folders = {key: root / key for key in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    raw = folders["nnUNet_raw"] / NAME
    write_dataset(raw)
    settings = {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1", "nnUNet_compile": "false"}
    environment = {**os.environ, **settings, **{key: str(path) for key, path in folders.items()}}
    done = subprocess.run([sys.executable, __file__], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    plans = json.loads((folders["nnUNet_preprocessed"] / NAME / "nnUNetPlans.json").read_text())
    results = folders["nnUNet_results"] / NAME / "nnUNetTrainer__nnUNetPlans__2d"
    first, second = (results / f"fold_{fold}" / "checkpoint_final.pth" for fold in (0, 1))
    return NnunetRun(raw, plans, (first, second), folders, environment)


if __name__ == "__main__":
    train_from(*sys.argv[1:]) if sys.argv[1:] else plan_and_train()
