"""nnU-Net v2's plans: the network and the preprocessing that they describe, by nnU-Net's own code (ours)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import pydoc
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import nn

from prrmse.data import nnunet
from prrmse.data.prepare import tell_patients
from prrmse.data.reading import one_line, read_json
from prrmse.data.slices import IGNORE, Slices
from prrmse.data.split import split_patients
from prrmse.errors import InputError
from prrmse.files import digest_of
from prrmse.nets.build import is_known
from prrmse.settings import Dataset

log = logging.getLogger(__name__)

NETWORK = "nnunetv2.utilities.get_network_from_plans:get_network_from_plans"
# What nnU-Net calls its plans in a folder of results, and by default in one of preprocessed data.
IN_RESULTS, DEFAULT = "plans.json", "nnUNetPlans.json"
RAW, PREPROCESSED = "nnUNet_raw", "nnUNet_preprocessed"
# Which cases each fold of nnU-Net's training trains on.
FOLDS = "splits_final.json"


@dataclass(frozen=True)
class Plans:
    """One configuration of nnU-Net's plans for a data set.

    Attributes:
        path: the file of the plans.
        configuration: e.g. ``2d`` or ``3d_fullres``.
        plans, dataset: contents of the plans and of the ``dataset.json`` beside them.
        network, arguments: import path and JSON-able keyword arguments of `prrmse.nets.build.build_network`.
        patch: voxels of a patch, or pixels of a slice, as the network takes it.
        batch_size: of nnU-Net's training.
    """

    path: Path
    configuration: str
    plans: dict[str, Any]
    dataset: dict[str, Any]
    network: str
    arguments: dict[str, Any]
    patch: tuple[int, ...]
    batch_size: int

    @property
    def digest(self) -> str:
        """SHA-256 of plans, configuration and ``dataset.json``."""
        what = json.dumps([self.plans, self.configuration, self.dataset], sort_keys=True)
        return hashlib.sha256(what.encode()).hexdigest()

    @property
    def name(self) -> str:
        """Of the data set, e.g. ``Dataset001_Heart``."""
        name: str = self.plans["dataset_name"]
        return name

    @property
    def raw(self) -> Path:
        """The raw data set, where nnU-Net has it.

        Raises:
            InputError: its variable is not set, or there is no such folder.
        """
        if RAW not in os.environ:
            raise InputError(f"<root>: the plans are for {self.name}; name its raw folder, or set {RAW}")
        folder = Path(os.environ[RAW]) / self.name
        if not folder.is_dir():
            raise InputError(f"<root>: {folder}, the raw data of the plans, does not exist; name their folder")
        return folder

    @property
    def folds(self) -> Path | None:
        """nnU-Net's own split, where it has made one: beside the plans, or where it keeps preprocessed data."""
        folders = [self.path.parent]
        if PREPROCESSED in os.environ:
            folders.append(Path(os.environ[PREPROCESSED]) / self.name)
        return next((folder / FOLDS for folder in folders if (folder / FOLDS).is_file()), None)

    def slices(self, settings: Dataset) -> Slices:
        """The raw data set by nnU-Net's own preprocessor: slices of a 2D configuration, patches of a 3D one.

        Spacing, cropping, normalisation and order of the axes are the plans'. A volume is cut into patches of the
        plans' size, which overlap as little as they can; what two of them share counts in one (its half that is
        farther from the border), and has the label `IGNORE` in the other, as has what is padded where a volume is
        smaller. So every voxel counts once.

        Args:
            settings: ``root``, the folder of the raw data; ``case_pattern`` and ``split``.

        Raises:
            InputError: the data set is another than the plans'; a case that nnU-Net's preprocessor does not take.
        """
        root = Path(settings.root)
        info = nnunet.description(root)
        described = _object(root / "dataset.json")
        for key in ("labels", "channel_names"):
            if described.get(key) != self.dataset.get(key):
                raise InputError(f"{root / 'dataset.json'}: its {key} are not those beside {self.path}; plan anew")
        nnunet.check(root, settings.case_pattern)
        named = nnunet.patients(root, settings.case_pattern)
        tell_patients(self.name, named, settings.case_pattern)
        split = split_patients(self.name, settings.split, {patient: None for patient, _ in named.values()})
        # Its results were trained by some fold, whether or not the file that says by which is here.
        if settings.split.kind != "file" and (self.folds or self.path.name == IN_RESULTS):
            log.warning(
                "this split is not nnU-Net's: a fold of nnU-Net's may have trained on patients that are in val here; "
                "prrmse prepare --split-file %s --fold K splits as fold K was trained (fold_all has seen everyone)",
                self.folds or FOLDS,
            )
        images, labels, rows = [], [], []
        for case in nnunet.cases(root):
            patient, frame = named[case.name]
            if patient not in split:
                continue
            patches = list(patches_of(*self._preprocessed(case, info), self.patch))
            images += [patch.image for patch in patches]
            labels += [patch.label for patch in patches]
            rows += [(patient, frame, number, split[patient]) for number in range(len(patches))]
        if not images:
            raise InputError(f"{root}: no voxel has a label other than `ignore`; add cases that are annotated")
        files = nnunet.files(root)
        meta = {
            "dataset": self.name,
            "format": "nnunet",
            "provenance": settings.provenance,
            "classes": {str(k): v for k, v in info.classes.items()},
            "spacing_mm": float(self._configuration.spacing[-1]),
            "split": settings.split.model_dump(exclude_none=True),
            "raw": {"files": len(files), "sha256": digest_of(root, files)},
            "plans": {"sha256": self.digest, "configuration": self.configuration},
        }
        index = pd.DataFrame(rows, columns=["patient", "frame", "slice", "split"])
        log.info(
            "%s %s: %d patches of %s", self.name, self.configuration, len(images), " x ".join(map(str, self.patch))
        )
        return Slices(np.stack(images), np.stack(labels), index, meta)

    @cached_property
    def _manager(self) -> Any:
        return _manager(self.plans)

    @cached_property
    def _configuration(self) -> Any:
        return self._manager.get_configuration(self.configuration)

    def _preprocessed(self, case: nnunet.Case, info: nnunet.Description) -> tuple[np.ndarray, np.ndarray]:
        """Image float32 ``[C, D, H, W]`` and classes uint8 ``[D, H, W]`` of a case."""
        files = [str(path) for path in case.images]
        try:
            with contextlib.redirect_stdout(sys.stderr):  # nnU-Net prints; ours may be JSON
                preprocessor = self._configuration.preprocessor_class(verbose=False)
                made = preprocessor.run_case(files, str(case.label), self._manager, self._configuration, self.dataset)
        except MemoryError:
            raise
        except Exception as e:  # it raises anything
            raise InputError(f"{files[0]}: nnU-Net's preprocessor does not take it ({one_line(e)}); fix it") from None
        image, numbers = np.asarray(made[0], np.float32), np.asarray(made[1])[0]
        if len(image) != self.arguments["input_channels"] or not np.isfinite(image).all():
            wanted = self.arguments["input_channels"]
            raise InputError(f"{files[0]}: preprocessed it has not {wanted} channels of finite numbers; fix the image")
        label = np.zeros(numbers.shape, np.uint8)
        for number in np.unique(numbers):
            if number >= 0:  # below: outside of the body, background for nnU-Net too
                if int(number) not in info.numbers:
                    raise InputError(f"{case.label}: unknown label {number}; fix the file, or declare it")
                label[numbers == number] = info.numbers[int(number)]
        return image, label


def read_plans(path: str | Path, configuration: str | None = None, *, trust: bool = False) -> Plans:
    """The plans in a folder of nnU-Net.

    Args:
        path: the folder of a trainer's results, ``nnUNet_results/Dataset001_Heart/nnUNetTrainer__nnUNetPlans__2d``; or
            of a preprocessed data set, ``nnUNet_preprocessed/Dataset001_Heart``; or one in it, such as ``fold_0``; or
            a file of plans.
        configuration: e.g. ``2d``; where the folder of results does not say it, and the plans have several.
        trust: build a network of any package that the plans name (`prrmse.nets.build.build_network`).

    Raises:
        InputError: no such folder; no plans in it, or several; no such configuration, or one whose network also takes
            the segmentation of another; regions in the place of labels; a network that is not trusted.
        ImportError: nnunetv2 is not installed.
    """
    import nnunetv2.utilities.label_handling.label_handling as labels

    file = _plans_file(Path(path))
    plans, dataset = (_object(file.with_name(name)) for name in (file.name, "dataset.json"))
    configuration = _configuration_name(file, plans, configuration)
    nnunet.description(file.parent)  # refuses regions
    try:
        manager = _manager(plans)
        found = manager.get_configuration(configuration)
        arguments = {
            "arch_class_name": found.network_arch_class_name,
            "arch_kwargs": dict(found.network_arch_init_kwargs),
            "arch_kwargs_req_import": list(map(str, found.network_arch_init_kwargs_req_import)),
            "input_channels": labels.determine_num_input_channels(manager, found, dataset),
            "output_channels": manager.get_label_manager(dataset).num_segmentation_heads,
            "deep_supervision": False,
        }
        patch, batch_size = tuple(int(n) for n in found.patch_size), int(found.batch_size)
        cascaded = found.previous_stage_name is not None
        if len(patch) not in (2, 3) or min(patch) < 1 or not isinstance(plans["dataset_name"], str):
            raise ValueError(f"a patch {patch} of {plans['dataset_name']}")
    except Exception as e:  # a file of another program, or of a release that nnunetv2 does not read
        what = f"{type(e).__name__}: {one_line(e)}"
        raise InputError(f"{file}: not plans that the installed nnunetv2 reads ({what}); plan anew") from None
    if cascaded:
        raise InputError(f"<configuration>: {configuration} of {file} needs another network's result; name another one")
    if not trust:
        _check_trusted(file, arguments)
    return Plans(file, configuration, plans, dataset, NETWORK, arguments, patch, batch_size)


def split_of_fold(path: Path, fold: int, named: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Patient -> ``train`` or ``val``, as a fold of nnU-Net's ``splits_final.json`` has its cases.

    nnU-Net splits cases, not patients: a patient of whom it trained on any case is in ``train``.

    Args:
        path: of that file.
        fold: from 0.
        named: patient and frame of every case, as `prrmse.data.nnunet.patients` finds them.

    Raises:
        InputError: it is another file, has no such fold or an unknown case, or leaves nobody for train or for val.
    """
    folds = read_json(path, "nnU-Net writes it when it first trains")
    try:
        of = [{part: [str(case) for case in known[part]] for part in ("train", "val")} for known in folds]
    except (KeyError, TypeError):
        raise InputError(f"{path}: not a splits_final.json of nnU-Net; name that, or a CSV") from None
    if not 0 <= fold < len(of):
        raise InputError(f"<fold>: {path} has {len(of)} folds, counted from 0, and no fold {fold}")
    for case in (case for cases in of[fold].values() for case in cases):
        if case not in named:
            raise InputError(f"{path}: the case {case} is not in the data set; name the data that nnU-Net trained on")
    trained, held_out = ({named[case][0] for case in of[fold][part]} for part in ("train", "val"))
    if both := sorted(trained & held_out):
        log.warning(
            "%s: fold %d trains on cases of %d patients of its val, such as %s, who count as train",
            *(path, fold, len(both), both[0]),
        )
    if not trained or not held_out - trained:
        raise InputError(f"{path}: fold {fold} leaves no patient to train on, or none for val; name a CSV of your own")
    return {**dict.fromkeys(held_out, "val"), **dict.fromkeys(trained, "train")}


def _manager(plans: dict[str, Any]) -> Any:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    return PlansManager(json.loads(json.dumps(plans)))  # it changes what it gets


def _plans_file(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(
            f"<nnunet_plans>: {path} does not exist; name a folder of nnUNet_results or nnUNet_preprocessed"
        )
    found = _plans_in(path) or _plans_in(path.absolute().parent)
    if not found:
        raise InputError(
            f"<nnunet_plans>: {path} holds no {IN_RESULTS} or {DEFAULT}; name the folder of one trainer's results, or "
            "run nnUNetv2_plan_experiment"
        )
    if len(found) > 1:
        folder, names = found[0].parent, ", ".join(file.name for file in found)
        raise InputError(f"<nnunet_plans>: {folder} holds several: {names}; name one")
    return found[0]


def _plans_in(folder: Path) -> list[Path]:
    """The files of plans in a folder; one, if it has an ordinary name."""
    usual = [folder / name for name in (IN_RESULTS, DEFAULT) if (folder / name).is_file()]
    return usual[:1] or sorted(folder.glob("*Plans*.json"))


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path, "nnU-Net has it there; copy it again")
    if not isinstance(found, dict):
        raise InputError(f"{path}: not a JSON object; copy it again")
    return found


def _configuration_name(file: Path, plans: dict[str, Any], configuration: str | None) -> str:
    """What was asked for, what the folder of results is called after, or the only one."""
    known = plans.get("configurations")
    if not isinstance(known, dict) or not known:
        raise InputError(f"{file}: has no configurations, so it is no file of plans; name another one")
    parts = file.absolute().parent.name.split("__")
    if configuration is None and file.name == IN_RESULTS and len(parts) == 3:
        configuration = parts[2]
    if configuration is None and len(known) == 1:
        configuration = next(iter(known))
    if configuration is None or configuration not in known:
        found = "several" if configuration is None else f"no {configuration}"
        raise InputError(f"<configuration>: {file} has {found}; name one of {', '.join(known)}")
    return configuration


def _check_trusted(file: Path, arguments: dict[str, Any]) -> None:
    """Refuse plans that make nnU-Net import and call anything but networks and layers of known packages."""
    kwargs = arguments["arch_kwargs"]
    layers = [kwargs.get(key) for key in arguments["arch_kwargs_req_import"]]
    for named in (arguments["arch_class_name"], *(layer for layer in layers if layer is not None)):
        found = _located(named) if isinstance(named, str) and is_known(named) else None
        if not (isinstance(found, type) and issubclass(found, nn.Module) and is_known(found.__module__)):
            raise InputError(
                f"{file}: names {named}, which is no network or layer of a package that is known, and its code would "
                "be run; read it, then state that you trust it by <trust>"
            )


def _located(path: str) -> object:
    try:
        return pydoc.locate(path)
    except pydoc.ErrorDuringImport:
        return None


class Patch(NamedTuple):
    """A part of a volume: image float32 ``[C, ...]``, label uint8 ``[...]``."""

    image: np.ndarray
    label: np.ndarray


def patches_of(image: np.ndarray, label: np.ndarray, size: tuple[int, ...]) -> Iterator[Patch]:
    """All patches of a volume; each voxel has its label in one of them, and `IGNORE` in others that hold it.

    Args:
        image: ``[C, D, H, W]``.
        label: ``[D, H, W]``.
        size: of a patch, ``(D, H, W)``; or ``(H, W)``, for parts of single slices.
    """
    wanted = (1,) * (3 - len(size)) + size
    missing = [max(0, w - n) for w, n in zip(wanted, label.shape, strict=True)]
    pads = [(m // 2, m - m // 2) for m in missing]
    image = np.pad(image, [(0, 0), *pads])
    label = np.pad(label, pads, constant_values=IGNORE)
    axes = [_parts(n, w) for n, w in zip(label.shape, wanted, strict=True)]
    for parts in product(*axes):
        here = tuple(slice(part.start, part.start + w) for part, w in zip(parts, wanted, strict=True))
        counted = tuple(slice(part.first - part.start, part.end - part.start) for part in parts)
        own = np.full(wanted, IGNORE, np.uint8)
        own[counted] = label[here][counted]
        if (own != IGNORE).any():
            yield Patch(image[:, *here].reshape(-1, *size), own.reshape(size))


class _Part(NamedTuple):
    """A patch along an axis: where it starts, and what counts in it."""

    start: int
    first: int
    end: int


def _parts(length: int, size: int) -> list[_Part]:
    """As few patches as cover the axis, evenly spaced; what two share is halved between them."""
    starts = np.linspace(0, length - size, -(-length // size)).round().astype(int).tolist()
    borders = [0, *((a + size + b) // 2 for a, b in pairwise(starts)), length]
    return [_Part(start, *ends) for start, ends in zip(starts, pairwise(borders), strict=True)]
