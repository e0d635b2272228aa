"""The sweep against one forward pass of the whole network per swap, against its floor, and how it grows."""

from __future__ import annotations

import copy
import ctypes
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
import torch
from common import CLASSES, NETS, PAPER, disturbed, noise, noise_patches, pair, seconds, table, torch_as_it_comes
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from prrmse.data.slices import Slices
from prrmse.engine import onednn
from prrmse.engine.rewrite import rewrite
from prrmse.engine.sweep import sweep
from prrmse.engine.trace import trace
from prrmse.learning.device import choose_device, has_bfloat16, set_up_process
from prrmse.learning.dice import Counts, dice
from prrmse.learning.evaluate import Evaluation
from prrmse.learning.reach import reaching
from prrmse.names import Layer
from prrmse.nets.layers import inventory
from prrmse.settings import Compute

BATCH = 16
# Of the baseline, of which its best is taken.
BATCHES = (1, 4, BATCH, 64)
COMPUTE = Compute(evaluation_precision="float32", evaluation_batch_size=BATCH)


def plain_way(
    target: nn.Module,
    source: dict[str, torch.Tensor],
    layer: Layer,
    data: Slices,
    batch: int,
    dtype: torch.dtype = torch.float32,
) -> Counts:
    """What one would write: deepcopy, load_state_dict, evaluate the network with a DataLoader. No code of ours."""
    device = choose_device("auto")
    network = copy.deepcopy(target)
    state = network.state_dict()
    network.load_state_dict({**state, layer.tensor: source[layer.tensor]})
    network.to(device).eval()
    patients = sorted(set(data.index["patient"]))
    patient = torch.tensor([patients.index(p) for p in data.index["patient"]])
    dataset = TensorDataset(torch.from_numpy(data.stacked), torch.from_numpy(data.label).long(), patient)
    both, predicted, true = (np.zeros((len(patients), CLASSES), np.int64) for _ in range(3))
    with torch_as_it_comes(), torch.inference_mode():
        torch.backends.cudnn.allow_tf32 = False  # what is compared is float32
        for image, label, row in DataLoader(dataset, batch_size=batch):
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                found = network(image.to(device)).argmax(dim=1).cpu()
            for c in range(CLASSES):
                p, t = found == c, label == c
                for total, mask in ((both, p & t), (predicted, p), (true, t)):
                    np.add.at(total[:, c], row.numpy(), mask.flatten(1).sum(1).numpy())
    return Counts(both, predicted, true)


def against_whole_passes(slices: int) -> str:
    """Every pair of one (network, source) by every engine; then the baseline with other batch sizes."""
    data = noise(slices)
    rows: list[dict[str, object]] = []
    others: list[dict[str, object]] = []
    for net, arguments in NETS.items():
        target, source = pair(net, arguments)
        layers, evaluation = inventory(target), Evaluation(data, COMPUTE, CLASSES)
        found: dict[str, list[Counts]] = {}
        start = time.perf_counter()
        textbook = [plain_way(target, source.state_dict(), layer, data, BATCH) for layer in layers]
        plain = time.perf_counter() - start
        for engine in ("plain", "exact", "fast"):
            start = time.perf_counter()
            _, found[engine] = sweep(target, source.state_dict(), layers, evaluation, engine=engine)
            took = time.perf_counter() - start
            rows.append({"network": f"{net} {arguments}", "pairs": len(layers), "engine": engine,
                         "engine, s": f"{took:.1f}", "baseline, s": f"{plain:.1f}",
                         "ratio": f"{plain / took:.2f}", **_differences(found[engine], textbook),
                         "pixels that differ from engine plain": _pixels(found[engine], found["plain"])})  # fmt: skip
        took = min(took, seconds(lambda: sweep(target, source.state_dict(), layers, evaluation)))  # noqa: B023
        for batch in BATCHES:
            one = seconds(partial(plain_way, target, source.state_dict(), layers[0], data, batch), 2)
            others.append({"network": net, "baseline's batch": batch, "a pair, s": f"{one:.2f}",
                           "all pairs, fast, s": f"{took:.1f}",
                           "ratio": f"{one * len(layers) / took:.2f}"})  # fmt: skip
    text = f"\n### Full sweep, {slices} slices of 128 x 128, float32; baseline with batches of {BATCH}\n\n"
    text += table(rows) + "\n\nThe baseline by batch size (one pair, times the number of pairs), and `fast`, each the "
    return text + "better of two:\n\n" + table(others)


def _differences(found: list[Counts], plain: list[Counts]) -> dict[str, object]:
    largest = max(float(np.nanmax(np.abs(dice(a) - dice(b)))) for a, b in zip(found, plain, strict=True))
    return {"largest difference of Dice": f"{largest:.1e}", "pixels that differ": _pixels(found, plain)}


def _pixels(found: list[Counts], others: list[Counts]) -> int:
    return sum(int(np.abs(a.predicted - b.predicted).sum()) // 2 for a, b in zip(found, others, strict=True))


def at_paper_width(slices: int, every: int) -> str:
    """The paper's widths, on every so many pairs; the baseline by one pair and their number."""
    data = noise(slices)
    rows: list[dict[str, object]] = []
    for net, arguments in PAPER.items():
        target, source = pair(net, arguments)
        layers, evaluation = inventory(target)[::every], Evaluation(data, COMPUTE, CLASSES)
        fast = seconds(lambda: sweep(target, source.state_dict(), layers, evaluation), 2)  # noqa: B023
        plain, batch = best_plain_way(target, source.state_dict(), layers[0], data)
        plain *= len(layers)
        rows.append({"network": f"{net} {arguments}", "pairs": len(layers), "fast, s": f"{fast:.1f}",
                     "baseline, s": f"{plain:.1f}", "its batch": batch, "ratio": f"{plain / fast:.2f}"})  # fmt: skip
    title = f"\n### The paper's widths, {_every(every)}, {slices} slices; baseline with its best batch"
    return f"{title}\n\n" + table(rows)


def _every(every: int) -> str:
    return "all pairs" if every == 1 else f"one pair in {every}"


def best_plain_way(target: nn.Module, source: dict[str, torch.Tensor], layer: Layer, data: Slices) -> tuple[float, int]:
    """Seconds of a pair with the best of some batch sizes, each the better of two; and that size."""
    return min((seconds(partial(plain_way, target, source, layer, data, size), 2), size) for size in BATCHES)


def of_libraries() -> dict[str, Callable[[], nn.Module]]:
    """Networks that people take from a library, at small widths."""
    import segmentation_models_pytorch as smp
    from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
    from monai.networks.nets import BasicUNet, DynUNet

    encoder = {"encoder_name": "tu-tf_efficientnet_lite0", "encoder_weights": None}
    channels = {"in_channels": 1, "classes": CLASSES}
    return {
        "smp PSPNet, EfficientNet-Lite0": lambda: smp.PSPNet(**encoder, **channels),
        "smp Unet, EfficientNet-Lite0": lambda: smp.Unet(**encoder, **channels, decoder_channels=(64, 32, 16, 16, 8)),
        "MONAI BasicUNet": lambda: BasicUNet(2, 1, CLASSES, (8, 8, 16, 32, 64, 8)),
        "MONAI DynUNet": lambda: DynUNet(2, 1, CLASSES, [3] * 4, [1, 2, 2, 2], [2] * 3, (8, 16, 32, 64)),
        "nnU-Net PlainConvUNet": lambda: of_nnunet(2),
        "nnU-Net ResidualEncoderUNet": lambda: of_nnunet(2, ResidualEncoderUNet),
    }


def of_nnunet(dimensions: int, kind: type[nn.Module] | None = None) -> nn.Module:
    """A network as nnU-Net's plans have it, but narrow; PlainConvUNet, if no other is named."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet

    convolution, norm = {2: (nn.Conv2d, nn.InstanceNorm2d), 3: (nn.Conv3d, nn.InstanceNorm3d)}[dimensions]
    made: nn.Module = (kind or PlainConvUNet)(
        *(1, 5, [8, 16, 32, 64, 64], convolution, 3, [1, 2, 2, 2, 2], 2, CLASSES, [1] * 4 if kind else 2),
        **{"conv_bias": True, "norm_op": norm, "norm_op_kwargs": {"affine": True}, "nonlin": nn.LeakyReLU},
    )
    return made


def both(build: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    """A network as target and as source."""
    return disturbed(build(), 0), disturbed(build(), 1)


def of_libraries_pairs() -> dict[str, Callable[[], tuple[nn.Module, nn.Module]]]:
    """Those of `of_libraries`, each as target and source."""
    return {name: partial(both, build) for name, build in of_libraries().items()}


def on_networks_of_libraries(slices: int, every: int, size: int = 96) -> str:
    """The engines on every so many pairs of networks that are not ours; the baseline by one pair and their number."""
    flat, patches = noise(slices, size), noise_patches(max(slices // 8, 1), (16, size // 2, size // 2))
    rows: list[dict[str, object]] = []
    built: dict[str, Callable[[], tuple[nn.Module, nn.Module]]]
    built = {**of_libraries_pairs(), "nnU-Net PlainConvUNet, 3D": partial(both, partial(of_nnunet, 3))}
    for name, build in built.items():
        target, source = build()
        data = patches if name.endswith("3D") else flat
        evaluation = Evaluation(data, COMPUTE, CLASSES)
        layers = reaching(target, evaluation.whole.image[:1])[::every]
        plain, batch = best_plain_way(target, source.state_dict(), layers[0], data)
        plain *= len(layers)
        for engine in ("exact", "fast"):
            took = seconds(lambda: sweep(target, source.state_dict(), layers, evaluation, engine=engine), 2)  # noqa: B023
            rows.append({"network": name, "pairs": len(layers), "engine": engine, "engine, s": f"{took:.2f}",
                         "baseline, s": f"{plain:.1f}", "its batch": batch,
                         "ratio": f"{plain / took:.2f}"})  # fmt: skip
    shape = " x ".join(map(str, patches.label[0].shape))
    title = f"\n### Networks of other libraries, {_every(every)}, {slices} slices of {size} x {size}"
    return f"{title}; 3D: {len(patches.image)} patches of {shape}; baseline with its best batch\n\n" + table(rows)


def by_evaluation_precision(slices: int, every: int) -> str:
    """`fast` and the baseline in float32, the default of `compute.evaluation_precision`, and in bfloat16."""
    if not has_bfloat16(choose_device("auto")):
        return "\n### bfloat16\n\nThis machine has no instructions for bfloat16."
    data = noise(slices)
    rows: list[dict[str, object]] = []
    for net, arguments in [*NETS.items(), *PAPER.items()]:
        target, source = pair(net, arguments)
        layers, state = inventory(target)[::every], source.state_dict()
        ours, plain, found = {}, {}, {}
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            evaluation = Evaluation(data, COMPUTE.model_copy(update={"evaluation_precision": name}), CLASSES)
            ours[name] = seconds(lambda: sweep(target, state, layers, evaluation), 2)  # noqa: B023
            own, swaps = sweep(target, state, layers, evaluation)
            found[name] = [dice(own) - dice(counts) for counts in swaps]
            one = partial(plain_way, target, state, layers[0], data, BATCH, dtype)
            plain[name] = seconds(one, 2) * len(layers)
        apart = max(float(np.nanmax(np.abs(a - b))) for a, b in zip(*found.values(), strict=True))
        rows.append({
            "network": f"{net} {arguments}", "pairs": len(layers), "fast, float32, s": f"{ours['float32']:.2f}",
            "fast, bfloat16, s": f"{ours['bfloat16']:.2f}", "baseline, float32, s": f"{plain['float32']:.1f}",
            "baseline, bfloat16, s": f"{plain['bfloat16']:.1f}",
            "ratio to float32": f"{plain['float32'] / ours['bfloat16']:.2f}",
            "ratio to bfloat16": f"{plain['bfloat16'] / ours['bfloat16']:.2f}",
            "largest difference of a drop in Dice": f"{apart:.0e}",
        })  # fmt: skip
    title = f"\n### bfloat16: `fast` in it against the baseline in both, every {every}th pair, {slices} slices"
    return f"{title} of 128 x 128\n\n" + table(rows)


def against_the_floor(slices: int, every: int) -> str:
    """Operations of the convolutions that no sharing spares, at the device's measured rate, against the sweep.

    Of all pairs, and of every so many at the paper's widths.
    """
    rate = matrix_rate()
    rows: list[dict[str, object]] = []
    device = choose_device("auto")
    for (net, arguments), step in [*((n, 1) for n in NETS.items()), *((n, every) for n in PAPER.items())]:
        target, source = pair(net, arguments)
        layers, evaluation = inventory(target)[::step], Evaluation(noise(slices), COMPUTE, CLASSES)
        operations = operations_of(target.to(device), source.state_dict(), layers, evaluation) * slices
        took = seconds(lambda: sweep(target, source.state_dict(), layers, evaluation), 2)  # noqa: B023
        floor = operations / rate
        rows.append({"network": f"{net} {arguments}", "pairs": len(layers),
                     "operations, 1e12": f"{operations / 1e12:.2f}", "floor, s": f"{floor:.2f}",
                     "fast, s": f"{took:.2f}", "fraction of the floor": f"{floor / took:.2f}"})  # fmt: skip
    title = f"\n### The floor: operations over the measured rate, {rate / 1e9:.0f} GFLOP/s float32, {slices} slices\n\n"
    return title + table(rows)


@torch.inference_mode()
@mock.patch.object(onednn, "PACK", dict.fromkeys(onednn.PACK))  # the counter knows torch's convolutions only
def operations_of(target: nn.Module, source: dict[str, torch.Tensor], layers: list[Layer], on: Evaluation) -> int:
    """Floating-point operations of all convolutions and matrix products of a sweep, for one slice."""
    image = on.batches[0].image[:1]
    program = trace(on.placed_copy(target), image)
    program = rewrite(program, program.outline(image.repeat(2, 1, 1, 1)), torch.float32, on.device)
    total = 0
    recorded = program.record(program.steps).run({program.image: image})
    for layer in layers:
        value = source[layer.tensor].to(on.device)
        changes = {name: program.steps[name].replaced(layer.tensor, value) for name in program.readers(layer.tensor)}
        with FlopCounterMode(display=False) as counter:
            program.rerun(changes, program.steps).run(recorded)
        total += counter.get_total_flops()
    return total


def matrix_rate() -> float:
    """Best measured rate of dense products in float32, per second: large matrices, and a wide convolution."""
    device = choose_device("auto")
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device)
    x = torch.randn(16, 256, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    w = torch.randn(256, 256, 3, 3, device=device).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        product = 2 * n**3 / seconds(lambda: a @ a, 5)
        convolution = 2 * 16 * 32 * 32 * 256 * 256 * 9 / seconds(lambda: F.conv2d(x, w, padding=1), 5)
    return max(product, convolution)


GROWTH: dict[str, list[dict[str, Any]]] = {
    "layers": [{"layers": n} for n in (5, 10, 20, 40)],
    "slices": [{"slices": n} for n in (25, 50, 100, 200)],
    "width": [{"width": w} for w in (6, 12, 24, 48)],
    "share of pairs": [{"pairs": share} for share in (0.25, 0.5, 0.75, 1.0)],
    "bound, MiB": [{"memory_mb": m} for m in (15, 30, 60, 120, 240)],
}


def growth(folder: Path, slices: int) -> str:
    """Time and peak memory of a UNet's sweep against what they may depend on; a figure."""
    rows = []
    context = multiprocessing.get_context("spawn")
    for axis, settings in GROWTH.items():
        for setting in settings:
            with ProcessPoolExecutor(1, context) as pool:
                took, peak = pool.submit(_grown, {"slices": slices, **setting}).result()
            rows.append({"axis": axis, "value": next(iter(setting.values())), "time, s": took, "peak, MiB": peak})
    found = pd.DataFrame(rows)
    draw(found, folder)
    found = found.assign(value=found["value"].map("{:g}".format)).round(1).astype(str)
    title = f"\n### Growth: UNet, width 12, {slices} slices, all pairs, unless said"
    return f"{title}; layers: convolutions with BN in a row\n\n" + table(
        [{str(k): v for k, v in row.items()} for row in found.to_dict("records")]
    )


def draw(found: pd.DataFrame, folder: Path) -> None:
    """``growth.png``, of columns axis, value, ``time, s`` and ``peak, MiB``."""
    figure, axes = plt.subplots(2, len(GROWTH), figsize=(13, 5), sharey="row", layout="constrained")
    for column, axis in enumerate(GROWTH):
        for row, measure in enumerate(("time, s", "peak, MiB")):
            panel = axes[row, column]
            sns.lineplot(found[found["axis"] == axis], x="value", y=measure, marker="o", ax=panel)
            panel.set(xlabel=axis, ylabel=measure if column == 0 else "")
            if axis == "bound, MiB" and row == 1:
                bounds = found.loc[found["axis"] == axis, "value"]
                panel.plot(bounds, bounds, color="black", linestyle=":", label="the bound")
                panel.legend()
    for row, measure in enumerate(("time, s", "peak, MiB")):
        axes[row, 0].set_ylim(0, 1.05 * found[measure].max())  # shared by the row
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "growth.png", dpi=120)


def stack(layers: int) -> nn.Module:
    """A network that can be of any depth: convolutions of 12 channels with BN and ReLU in a row."""
    parts: list[nn.Module] = []
    for i in range(layers):
        parts += [nn.Conv2d(12 if i else 1, 12, 3, padding=1), nn.BatchNorm2d(12), nn.ReLU()]
    return nn.Sequential(*parts, nn.Conv2d(12, CLASSES, 1)).eval()


def _grown(setting: dict[str, Any]) -> tuple[float, float]:
    set_up_process("auto", torch.get_num_threads())
    if "layers" in setting:
        target, source = (disturbed(stack(setting["layers"]), seed) for seed in (0, 1))
    else:
        target, source = pair("unet", {"width": setting.get("width", 12)})
    layers = inventory(target)
    layers = layers[:: round(1 / setting["pairs"])] if setting.get("pairs", 1.0) in (0.25, 0.5) else layers
    if setting.get("pairs") == 0.75:
        layers = [layer for i, layer in enumerate(layers) if i % 4]
    evaluation = Evaluation(noise(setting["slices"]), COMPUTE, CLASSES)
    evaluation.counts(evaluation.place(copy.deepcopy(target)))  # what torch itself needs, once
    before = _memory("VmRSS")
    took = seconds(
        lambda: sweep(target, source.state_dict(), layers, evaluation, memory_mb=setting.get("memory_mb", 2000))
    )
    return took, _memory("VmHWM") - before


def _memory(field: str) -> float:
    """MiB: of the device, else ``VmRSS`` (now) or ``VmHWM`` (the most since ``VmRSS`` was read) of this process."""
    if torch.cuda.is_available():
        if field == "VmRSS":
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 2**20
    if field == "VmRSS":
        ctypes.CDLL(None).malloc_trim(0)  # what the warm-up has freed would hide as much of the sweep's own
        Path("/proc/self/clear_refs").write_text("5")
    # Not getrusage: its maximum is inherited from the process that started this one.
    return int(Path("/proc/self/status").read_text().partition(f"{field}:")[2].split()[0]) / 1024
