"""What only a GPU can show of training: the same bytes, a recorded graph, what a kill and a failed recording leave.

As a script, in a process of its own, as JSON: ``digests`` of the trainings of `CASES`, or `failed_recording`.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest import mock

import numpy as np
import pandas as pd
import torch
from common import CLASSES, NETS, PAPER, noise, pair, table
from torch import nn

from prrmse.data.slices import Slices
from prrmse.engine.sweep import sweep
from prrmse.learning import cuda
from prrmse.learning.device import choose_device, has_bfloat16, set_up_process
from prrmse.learning.evaluate import Evaluation, measure
from prrmse.learning.progress import Progress
from prrmse.learning.train import train
from prrmse.names import Layer
from prrmse.nets.build import seeded_network
from prrmse.nets.layers import inventory
from prrmse.settings import Compute, FrozenStatistics, Training

STEPS, KILLED_AT = 12, 8
SIZE = 64
THIS = str(Path(__file__).resolve())
Precision = Literal["float32", "bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
CASES = list(itertools.product(NETS, ("seg", "auto"), PRECISIONS))


class Trained(NamedTuple):
    """A training: the digest of its state, the state, the loss of each step, and whether its step was recorded."""

    digest: str
    state: dict[str, torch.Tensor]
    losses: list[float]
    recorded: bool


class Killed(Exception):
    """Stands for what ends a process in the middle."""


def squares(slices: int = 32) -> Slices:
    """Slices with three nested squares as structures, four a patient; something that can be learnt."""
    rng = np.random.default_rng(0)
    label = np.zeros((slices, SIZE, SIZE), np.uint8)
    for i, margin in enumerate((8, 16, 24)):
        label[:, margin:-margin, margin:-margin] = i + 1
    label = np.stack([np.roll(x, rng.integers(-7, 8, 2), (0, 1)) for x in label])
    image = (label + 0.3 * rng.standard_normal(label.shape)).astype(np.float32)
    patient = [f"p{i // 4:03d}" for i in range(slices)]
    split = ["train" if i < slices // 2 else "val" for i in range(slices)]
    index = pd.DataFrame({"patient": patient, "frame": "1", "slice": range(slices), "split": split})
    meta = {"dataset": "squares", "classes": {"1": "a", "2": "b", "3": "c"}, "spacing_mm": 1.0}
    return Slices(image, label, index, meta)


def digest_of(state: dict[str, torch.Tensor]) -> str:
    """SHA-256 of the bytes of all tensors."""
    found = hashlib.sha256()
    for name, value in state.items():
        found.update(name.encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


@contextlib.contextmanager
def watched(*, eager: bool = False, kill_at: int = 0) -> Iterator[tuple[list[float], list[cuda.Captured]]]:
    """Context in which trainings tell the loss of each step and what records them.

    Args:
        eager: nothing is recorded.
        kill_at: a step after which the training ends by `Killed`.
    """
    losses: list[float] = []
    made: list[cuda.Captured] = []

    class Watched(cuda.Captured):
        def __init__(self, function: cuda.Function) -> None:
            super().__init__(function)
            made.append(self)

    def show(_: Progress, step: int, loss: torch.Tensor, *__: object) -> None:
        losses.append(loss.item())
        if step == kill_at:
            raise Killed

    captured: Any = (lambda function: function) if eager else Watched
    with mock.patch.object(cuda, "Captured", captured), mock.patch.object(Progress, "show", show):
        yield losses, made


def trained(
    network: nn.Module,
    task: str = "seg",
    precision: Precision = "float32",
    *,
    device: Literal["cpu", "auto"] = "auto",
    eager: bool = False,
    kill_at: int = 0,
    steps: int = STEPS,
    **options: Any,
) -> Trained:
    """Train a network on squares."""
    compute = Compute(
        device=device, precision=precision, threads=1 if device == "auto" else os.cpu_count() or 1, resume_seconds=0
    )
    settings = Training(steps=steps, batch_size=8, learning_rate=0.002, augment=True)
    with watched(eager=eager, kill_at=kill_at) as (losses, made):
        train(network, squares().split("train"), task, settings, 1, compute, **options)
    state = network.state_dict()
    return Trained(digest_of(state), state, losses, bool(made) and made[0].recorded)


def of_case(net: str, task: str, precision: Precision, **options: Any) -> Trained:
    """A training of one of our networks."""
    return trained(seeded_network(net, NETS[net], "start"), task, precision, **options)


def largest_difference(a: Trained, b: Trained) -> str:
    """``same bytes``, or the largest difference of a value."""
    if a.digest == b.digest:
        return "same bytes"
    differences = [
        float((v.double() - b.state[k].double()).abs().max()) for k, v in a.state.items() if v.is_floating_point()
    ]
    return f"differ by at most {max(differences):.1e}"


def killed_and_resumed(make: Callable[[], nn.Module], task: str, precision: Precision) -> Trained:
    """A training that is killed after a recorded step, and its continuation."""
    with tempfile.TemporaryDirectory() as folder:
        resume = Path(folder) / "resume"
        with contextlib.suppress(Killed):
            trained(make(), task, precision, kill_at=KILLED_AT, resume=resume)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as in a process that begins
        found = trained(make(), task, precision, resume=resume)
    if len(found.losses) != STEPS - KILLED_AT + 1:
        raise AssertionError(f"{len(found.losses)} steps after the kill: it did not resume")
    return found


def reproducibility() -> str:
    """Our networks, both tasks, both dtypes: again, in another process, without a graph, killed and resumed."""
    others: dict[str, str] = json.loads(_python(THIS, "digests").splitlines()[-1])
    rows = []
    for case in CASES:
        first = of_case(*case)
        net, task, precision = case

        def make(net: str = net) -> nn.Module:
            return seeded_network(net, NETS[net], "start")

        other = "same bytes" if others[" ".join(case)] == first.digest else "DIFFERS"
        rows.append({
            "training": " ".join(case), "graph recorded": _yes(first.recorded),
            "again": largest_difference(first, of_case(*case)), "another process": other,
            "without a graph": largest_difference(first, of_case(*case, eager=True)),
            "killed, resumed": largest_difference(first, killed_and_resumed(make, task, precision)),
            "loss, first and last step": f"{first.losses[0]:.3f} {first.losses[-1]:.3f}",
        })  # fmt: skip
    return f"\n### Trainings of {STEPS} steps\n\n" + table(rows)


def against_the_cpu() -> str:
    """Losses and Dice of a training in float32, by the GPU and by the CPU."""
    data = squares()
    rows = []
    for net in NETS:
        made, dices = {}, {}
        for device in ("auto", "cpu"):
            network = seeded_network(net, NETS[net], "start")
            made[device] = trained(network, device=device, steps=40)
            evaluation = Evaluation(data.split("val"), Compute(device=device), CLASSES)
            found = measure(network, evaluation, "seg")
            dices[device] = float(found.loc[found["class"] == "mean", "dice"].mean())
            network.cpu()
        losses = np.array([made["auto"].losses, made["cpu"].losses])
        relative = np.abs(losses[0] - losses[1]) / losses[1]
        rows.append({"network": net, **{f"loss differs, step {i}": f"{relative[i - 1]:.1e}" for i in (1, 2, 5, 40)},
                     "loss, step 40, GPU and CPU": f"{losses[0, -1]:.4f} {losses[1, -1]:.4f}",
                     "Dice, GPU and CPU": f"{dices['auto']:.4f} {dices['cpu']:.4f}"})  # fmt: skip
    return "\n### GPU against CPU, float32, 40 steps; differences of the loss are relative\n\n" + table(rows)


class Dropping(nn.Module):
    """Draws in its forward pass; ``waits``: and asks the device for a number."""

    def __init__(self, *, waits: bool = False) -> None:
        super().__init__()
        self.first, self.last, self.waits = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, CLASSES, 1), waits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images."""
        x = nn.functional.dropout(self.first(x), 0.5, self.training)
        logits: torch.Tensor = self.last(x * (1 if self.waits and x.sum().item() == 0 else 2))
        return logits


def fast_dtype() -> Precision:
    """What trainings use here unless told otherwise; a CPU can take long over bfloat16."""
    return "bfloat16" if has_bfloat16(choose_device()) else "float32"


def nnunet_like() -> nn.Module:
    """A plain U-Net as nnU-Net builds it: InstanceNorm, leaky ReLU, strided and transposed convolutions."""
    unet = importlib.import_module("dynamic_network_architectures.architectures.unet")
    network: nn.Module = unet.PlainConvUNet(
        1, 4, [16, 32, 64, 128], nn.Conv2d, 3, [1, 2, 2, 2], 2, CLASSES, 2, conv_bias=True,
        norm_op=nn.InstanceNorm2d, norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU, nonlin_kwargs={"inplace": True},
    )  # fmt: skip
    return network


def foreign(name: str) -> nn.Module:
    """A network that is not ours, always with the same initialisation."""
    torchvision = {"weights": None, "weights_backbone": None, "num_classes": CLASSES}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name == "nnU-Net's plain U-Net":
            return nnunet_like()
        if name.startswith("torchvision"):
            return seeded_network(f"torchvision.models.segmentation:{name.split()[1]}", torchvision, name)
        return Dropping(waits="waits" in name)


FOREIGN = ["torchvision fcn_resnet50", "torchvision deeplabv3_resnet50", "nnU-Net's plain U-Net", "dropout",
           "dropout, waits for the GPU"]  # fmt: skip


def of_others() -> str:
    """Networks that are not ours, one of which cannot be recorded; then a recording that fails in earnest."""
    rows = []
    for name in FOREIGN:
        try:
            channels: dict[str, Any] = {"image_channels": 3} if name.startswith("torchvision") else {}
            first = trained(foreign(name), precision=fast_dtype(), **channels)
            again = trained(foreign(name), precision=fast_dtype(), **channels)
            eager = trained(foreign(name), precision=fast_dtype(), eager=True, **channels)
            row = {"graph recorded": _yes(first.recorded), "again": largest_difference(first, again),
                   "without a graph": largest_difference(first, eager)}  # fmt: skip
            if not channels:
                resumed = killed_and_resumed(lambda: foreign(name), "seg", fast_dtype())  # noqa: B023
                row["killed, resumed"] = largest_difference(first, resumed)
        except Exception as e:
            row = {"graph recorded": first_line(e)}
            traceback.print_exc()
        rows.append({"network": name, **row})
    rows.append({"network": "waits, recorded all the same", **json.loads(_python(THIS, "failed").splitlines()[-1])})
    columns = ["network", "graph recorded", "again", "without a graph", "killed, resumed"]
    return f"\n### Networks of others, {fast_dtype()}\n\n" + table([{c: r.get(c, "") for c in columns} for r in rows])


def failed_recording() -> dict[str, str]:
    """A row of `of_others`: a recording that fails in earnest, and the trainings after it; for a process of its own."""
    waits = FOREIGN[-1]
    with mock.patch.object(cuda, "WAITED", "never said"):
        failed = trained(foreign(waits), precision=fast_dtype())
    after = trained(foreign("dropout"), precision=fast_dtype())
    again = largest_difference(after, trained(foreign("dropout"), precision=fast_dtype(), eager=True))
    torch.cuda.empty_cache()
    return {
        "graph recorded": _yes(failed.recorded),
        "again": f"the next training: graph {_yes(after.recorded)}, against none {again}",
        "without a graph": largest_difference(failed, trained(foreign(waits), precision=fast_dtype(), eager=True)),
    }


def frozen() -> str:
    """The frozen arms: what is frozen keeps its bytes; the same bytes again."""
    rows = []
    treatments: tuple[FrozenStatistics, ...] = ("both", "literal", "reestimated")
    for net, statistics in itertools.product(NETS, treatments):
        start = seeded_network(net, NETS[net], "start")
        layers = inventory(start)
        last_mean = [layer for layer in layers if layer.kind == "RM"][-1]
        chosen = [layer for layer in layers if layer.layer <= last_mean.layer // 2]
        before = {k: v.clone() for k, v in start.state_dict().items()}

        def arm(net: str = net, listed: list[Layer] = [*chosen, last_mean], **options: Any) -> Trained:  # noqa: B006
            return of_case(net, "seg", fast_dtype(), frozen=listed, **options)

        first = arm(frozen_statistics=statistics)
        kept = sum(torch.equal(first.state[layer.tensor], before[layer.tensor]) for layer in chosen)
        moved = not torch.equal(first.state[last_mean.tensor], before[last_mean.tensor])
        rows.append({
            "network": net, "frozen_statistics": statistics, "graph recorded": _yes(first.recorded),
            "frozen tensors that kept their bytes": f"{kept} of {len(chosen)}",
            "a mean frozen without its variance": "follows the batches" if moved else "kept",
            "again": largest_difference(first, arm(frozen_statistics=statistics)),
        })  # fmt: skip
    return f"\n### Frozen arms, {fast_dtype()}\n\n" + table(rows)


def out_of_memory() -> str:
    """What a batch that does not fit says, and whether the process is of use afterwards."""
    data = noise(512)
    target, source = pair("unet", PAPER["unet"])
    layers = inventory(target)[::40]
    lines = []
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_allocated() + 3 * 2**30) / total)
    tries: dict[str, Callable[[], object]] = {
        "evaluation_batch_size 512": lambda: _swept(target, source, layers, data, 512, "exact", 10**6),
        "fast, memory_mb 1000000": lambda: _swept(target, source, layers, data, 16, "fast", 10**6),
        "fast, memory_mb 1000": lambda: _swept(target, source, layers, data, 16, "fast", 1000),
        "evaluation_batch_size 8": lambda: _swept(target, source, layers, data, 8, "exact", 2000),
    }
    try:
        for name, work in tries.items():
            try:
                work()
                lines.append({"setting": name, "found": "works"})
            except Exception as e:
                lines.append({"setting": name, "found": first_line(e)})
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    return "\n### With 3 GiB of GPU memory: UNet, width 64, 512 slices of 128 x 128\n\n" + table(lines)


def _swept(
    target: nn.Module, source: nn.Module, layers: list[Layer], data: Slices, batch: int, engine: str, memory: int
) -> None:
    evaluation = Evaluation(data, Compute(evaluation_batch_size=batch), CLASSES)
    sweep(target, source.state_dict(), layers, evaluation, engine=engine, memory_mb=memory)


LEASE = """
import torch
from prrmse.learning.device import lease_gpu, set_up_process
set_up_process("auto", 1)
x = torch.ones(2048, 2048, device="cuda")
for _ in range(200):
    y = x @ x
print("lease", lease_gpu(), "result", float(y[0, 0]), torch.cuda.get_device_name())
"""


def lease() -> str:
    """Two processes at once, with ``CUDA_VISIBLE_DEVICES`` unset."""
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    start = time.perf_counter()
    command = [sys.executable, "-c", LEASE]
    running = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for _ in range(2)
    ]
    rows: list[dict[str, object]] = []
    for process in running:
        printed, _ = process.communicate(timeout=200)
        last = printed.strip().splitlines()[-1] if printed.strip() else ""
        rows.append({"process": len(rows) + 1, "exit status": process.returncode, "printed": last})
    return f"\n### Two processes on one GPU at once: {time.perf_counter() - start:.0f} s\n\n" + table(rows)


@contextlib.contextmanager
def collected_warnings(found: dict[str, int]) -> Iterator[None]:
    """Context that counts warnings by their first line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for w in caught:
        text = str(w.message).split(" (Triggered internally")[0].splitlines()[0][:200]
        found[text] = found.get(text, 0) + 1


def _python(*arguments: str) -> str:
    done = subprocess.run([sys.executable, *arguments], text=True, stdout=subprocess.PIPE, check=True, timeout=400)
    return done.stdout


def first_line(e: Exception) -> str:
    return f"{type(e).__name__}: {str(e).strip().splitlines()[0] if str(e).strip() else ''}"[:300]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def main() -> None:
    set_up_process("auto", 1)
    if sys.argv[1:] == ["failed"]:
        print(json.dumps(failed_recording()))
    else:
        print(json.dumps({" ".join(case): of_case(*case).digest for case in CASES}))


if __name__ == "__main__":
    main()
