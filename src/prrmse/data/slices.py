"""The one processed form of image data in the workflow."""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from prrmse.data.reading import MAX_BYTES, check_readable, naming
from prrmse.files import atomic
from prrmse.seeding import derive_seed

INDEX_COLUMNS = ["patient", "frame", "slice", "split"]
SPLITS = ("train", "val", "test")
# Reserved label: the pixel's class is not known. It counts neither in the loss nor in Dice (`Masks`).
IGNORE = 255


# What unpacks to more than `MAX_BYTES` must not be packed denser than images are.
MAX_RATIO = 50


@dataclass
class Slices:
    """2D slices, or 3D patches, of one data set, all of one size and spacing.

    Attributes:
        image: float32 ``[N, H, W]``, or ``[N, C, H, W]`` for several channels; each slice and channel normalised
            (mean 0, SD 1 after clipping). Of patches ``[N, C, D, H, W]``.
        label: uint8 ``[N, H, W]`` or ``[N, D, H, W]``, 0 is background, `IGNORE` (255) a pixel that does not count.
        index: N rows with the columns ``patient`` (str), ``frame`` (str), ``slice`` (int; of patches their number in
            the volume) and ``split`` (one of train, val, test).
        meta: JSON-able; ``dataset`` (str), ``classes`` ({"1": name, ...}), ``spacing_mm`` (float),
            ``provenance`` ("phantom", "synthetic" or "real"; shown wherever a number appears).
    """

    image: np.ndarray
    label: np.ndarray
    index: pd.DataFrame
    meta: dict[str, Any]

    @property
    def classes(self) -> dict[int, str]:
        """Foreground label -> name of the structure, in label order."""
        return {int(k): str(v) for k, v in sorted(self.meta["classes"].items(), key=lambda kv: int(kv[0]))}

    @property
    def stacked(self) -> np.ndarray:
        """The image with its channels, ``[N, C, H, W]`` or ``[N, C, D, H, W]``."""
        return self.image[:, None] if self.image.ndim == 3 else self.image

    def take(self, rows: np.ndarray) -> Slices:
        """The slices at these positions (int or bool), with their index."""
        return Slices(self.image[rows], self.label[rows], self.index.iloc[rows].reset_index(drop=True), self.meta)

    def split(self, name: str) -> Slices:
        """The slices of one split."""
        return self.take(np.flatnonzero((self.index["split"] == name).to_numpy()))

    def patients(self, split: str | None = None) -> list[str]:
        """Patient ids, sorted; of one split, if named."""
        index = self.index if split is None else self.index[self.index["split"] == split]
        return sorted(index["patient"].unique())

    def fingerprint(self) -> str:
        """SHA-256 over pixels, labels, index and meta; equal only for equal data."""
        digest = hashlib.sha256()
        for array in (self.image, self.label):
            digest.update(str((array.dtype.str, array.shape)).encode())
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(self.index.to_csv(index=False).encode())
        digest.update(json.dumps(self.meta, sort_keys=True).encode())
        return digest.hexdigest()


def save_slices(slices: Slices, path: str | Path) -> None:
    """Write one ``.npz``, byte for byte the same for equal data, complete or not at all."""
    columns = {f"index_{name}": slices.index[name].to_numpy() for name in INDEX_COLUMNS}
    text = {k: v.astype(str) for k, v in columns.items() if k != "index_slice"}
    with atomic(path) as partial, open(partial, "wb") as file:
        np.savez_compressed(
            file,
            image=slices.image,
            label=slices.label,
            index_slice=columns["index_slice"].astype(np.int64),
            meta=np.array(json.dumps(slices.meta, sort_keys=True)),
            **text,  # type: ignore[arg-type]
        )


def load_slices(path: str | Path) -> Slices:
    """Read what ``save_slices`` wrote.

    Raises:
        InputError: the file is missing, truncated or not of this form.
    """
    path = Path(path)
    check_readable(path, "it is a processed data set; run the rule `prepare` for it")
    with naming(path, "a complete processed data set", "delete it and run `prepare` again"):
        with zipfile.ZipFile(path) as file:
            unpacked = sum(member.file_size for member in file.infolist())
            if unpacked > max(MAX_BYTES, MAX_RATIO * path.stat().st_size):
                raise ValueError(f"asks for {unpacked} bytes")
            for member in file.infolist():
                _check_array(file, member)
        with np.load(path, allow_pickle=False) as z:
            index = pd.DataFrame({name: z[f"index_{name}"] for name in INDEX_COLUMNS})
            found = Slices(z["image"], z["label"], index, json.loads(str(z["meta"])))
        _check(found)
    return found


def _check_array(file: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    """Refuse an array whose header asks for more than its member holds; NumPy would allocate it first.

    Raises:
        ValueError: it does, or it is no array.
    """
    with file.open(member) as stream:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(stream)
    if min(shape, default=0) < 0 or math.prod(shape) * max(1, dtype.itemsize) > member.file_size:
        raise ValueError(f"{member.filename} asks for more than it holds")


def _check(slices: Slices) -> None:
    """Refuse what `save_slices` does not write.

    Raises:
        ValueError: says what is wrong.
    """
    image, label, n = slices.image, slices.label, len(slices.index)
    shape = (n, *image.shape[1 if image.ndim == 3 else 2 :])
    right = image.dtype == np.float32 and image.ndim in (3, 4, 5) and len(image) == n
    if not right or label.dtype != np.uint8 or label.shape != shape:
        raise ValueError(f"image {image.dtype} {image.shape} and label {label.dtype} {label.shape} of {n} slices")
    if not np.isfinite(image).all():
        raise ValueError("NaN or infinite pixels")
    if not {"dataset", "classes", "spacing_mm", "provenance"} <= set(slices.meta):
        raise ValueError("the description is not whole")
    if not slices.classes or not set(np.unique(label).tolist()) <= {0, *slices.classes, IGNORE}:
        raise ValueError(f"labels are not among {sorted(slices.classes)}")
    names = slices.index[["patient", "frame", "split"]]
    is_text = all(isinstance(name, str) for column in names for name in names[column])
    if not is_text or not set(slices.index["split"]) <= set(SPLITS) or slices.index["slice"].dtype.kind != "i":
        raise ValueError("the index is not whole")
    twice = names.groupby("patient")["split"].nunique()
    if (twice > 1).any():
        raise ValueError(f"the patient {twice[twice > 1].index[0]} is in two splits")


def draw_patients(slices: Slices, samples: int, seed: int) -> Slices:
    """The training slices of ``samples`` random patients (all of them if there are fewer).

    A larger draw of the same seed contains the smaller one, so that sample sizes are compared on
    nested sets.
    """
    patients = np.array(slices.patients("train"))
    rng = np.random.default_rng(derive_seed(slices.meta["dataset"], "transfer patients", seed))
    chosen = set(rng.permutation(patients)[:samples])
    rows = (slices.index["split"] == "train") & slices.index["patient"].isin(chosen)
    return slices.take(np.flatnonzero(rows.to_numpy()))


def some_slices(slices: Slices, n: int, *identity: object) -> Slices:
    """At most n slices, drawn by a seed that derives from what they are for."""
    rng = np.random.default_rng(derive_seed("some slices", *identity))
    return slices.take(np.sort(rng.permutation(len(slices.image))[:n]))
