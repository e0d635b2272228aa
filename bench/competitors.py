"""The sweep by compiled inference for CPUs, set up as its users would, the swapped tensor an input of the graph.

OpenVINO's graph is cut at the layer, so that what lies before it is computed once; ONNX Runtime's is whole.
"""

from __future__ import annotations

import copy
import importlib.util
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from common import CLASSES, NETS, PAPER, noise, pair, seconds, table
from sweeps import BATCH, COMPUTE, of_libraries_pairs
from torch import nn
from torch.func import functional_call

from prrmse.engine.sweep import sweep_changes
from prrmse.learning.evaluate import Evaluation, output_of
from prrmse.learning.reach import reaching
from prrmse.names import Layer

PRECISIONS = ("f32", "bf16")
# The time of swaps alone is that of so many times as many, less that of one time.
REPEATS = 5


class OneTensor(nn.Module):
    """A copy of a network, in evaluation mode, one of whose tensors is an input.

    Args:
        network: whose.
        tensor: name of the tensor, which may have others.
    """

    def __init__(self, network: nn.Module, tensor: str) -> None:
        super().__init__()
        self.network, self.tensor = copy.deepcopy(network), tensor
        self.eval()

    def forward(self, image: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return output_of(functional_call(self.network, {self.tensor: value}, image))


class Cut:
    """A network cut at a layer: what lies before is computed once, what lies behind for each source.

    Args:
        network: in evaluation mode.
        layer: whose tensor is an input of the part behind.
        image: one batch ``[N, C, H, W]``; every batch has to be of its shape.
        precision: of OpenVINO: f32 or bf16.
    """

    def __init__(self, network: nn.Module, layer: Layer, image: torch.Tensor, precision: str) -> None:
        import openvino as ov

        value = network.state_dict()[layer.tensor]
        start = time.perf_counter()
        whole = ov.convert_model(torch.export.export(OneTensor(network, layer.tensor), (image, value)))
        whole.reshape({0: list(image.shape), 1: list(value.shape)})
        of_image, of_value = whole.get_parameters()
        before, behind = _downstream(of_image), _downstream(of_value)
        crossing: dict[Any, list[Any]] = {}  # outputs of the part before, and the inputs that read them
        for node in whole.get_ordered_ops():
            if node.get_name() in behind:
                for port in node.inputs():
                    source = port.get_source_output()
                    name = source.get_node().get_name()
                    if name in before and name not in behind:
                        crossing.setdefault((name, source.get_index()), []).append((source, port))
        sources = [ports[0][0] for ports in crossing.values()]
        prefix = ov.Model([ov.opset13.result(source) for source in sources], [of_image])
        inputs = [ov.opset13.parameter(s.get_partial_shape(), s.get_element_type()) for s in sources]
        for own, ports in zip(inputs, crossing.values(), strict=True):
            for _, port in ports:
                port.replace_source_output(own.output(0))
        suffix = ov.Model(whole.get_results(), [of_value, *inputs])
        settings = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": precision}
        core = ov.Core()
        self._prefix, self._suffix = (core.compile_model(part, "CPU", settings) for part in (prefix, suffix))
        self.seconds = time.perf_counter() - start

    def before(self, image: torch.Tensor) -> list[np.ndarray]:
        """What crosses the cut, for one batch."""
        found = self._prefix([image.numpy()])
        return [found[i].copy() for i in range(len(self._prefix.outputs))]

    def behind(self, value: torch.Tensor, crossing: list[np.ndarray]) -> np.ndarray:
        """Logits ``[N, C, H, W]``."""
        logits: np.ndarray = self._suffix([value.numpy(), *crossing])[0]
        return logits


class Whole:
    """A network in ONNX Runtime, one of whose tensors is an input.

    Args:
        network, layer, image: as for `Cut`.
    """

    def __init__(self, network: nn.Module, layer: Layer, image: torch.Tensor) -> None:
        import onnxruntime as ort

        start = time.perf_counter()
        arguments, names = (image, network.state_dict()[layer.tensor]), ["image", "value"]
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = torch.get_num_threads()
        settings.log_severity_level = 3
        with tempfile.TemporaryDirectory() as folder:
            path = f"{folder}/network.onnx"
            network = OneTensor(network, layer.tensor)
            torch.onnx.export(network, arguments, path, input_names=names, dynamo=True, verbose=False)
            self._session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        self.seconds = time.perf_counter() - start

    def __call__(self, image: torch.Tensor, value: torch.Tensor) -> np.ndarray:
        """Logits ``[N, C, H, W]``."""
        logits: np.ndarray = self._session.run(None, {"image": image.numpy(), "value": value.numpy()})[0]
        return logits


def _downstream(node: Any) -> set[str]:
    """Names of a node and of all that its output reaches."""
    found, queue = set(), [node]
    while queue:
        node = queue.pop()
        if node.get_name() not in found:
            found.add(node.get_name())
            queue += [port.get_node() for output in node.outputs() for port in output.get_target_inputs()]
    return found


def against_compiled(slices: int, every: int, size: int = 128) -> str:
    """Every so many pairs by `fast` and by others, swaps alone: without what is done once, such as compiling.

    Of `fast` that is tracing and the network itself, of OpenVINO the part before the cut.
    """
    if missing := [
        name for name in ("openvino", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None
    ]:
        return f"\n### Compiled inference\n\nNot installed: `uv pip install {' '.join(missing)}`."
    own = [*NETS.items(), *PAPER.items()]
    built: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
        f"{net} {arguments}": partial(pair, net, arguments) for net, arguments in own
    }
    built |= of_libraries_pairs()
    data = noise(slices, size)
    rows: list[dict[str, object]] = []
    for name, build in built.items():
        target, source = build()
        evaluation = Evaluation(data, COMPUTE, CLASSES)
        layers = reaching(target, evaluation.whole.image[:1])[::every]
        state = source.state_dict()
        changes = [{layer.tensor: state[layer.tensor]} for layer in layers]
        whole, often = (
            seconds(partial(sweep_changes, target, changes * times, evaluation), 2) for times in (1, REPEATS)
        )
        took = (often - whole) / (REPEATS - 1)
        row: dict[str, object] = {
            "network": name, "pairs": len(layers), "fast, all of it, s": f"{whole:.2f}",
            "fast, swaps alone, s": f"{took:.2f}",
        }  # fmt: skip
        for precision in PRECISIONS:
            run, compiled, off = _by_openvino(target, state, layers, data.image, precision)
            row |= {
                f"OpenVINO {precision}, s": f"{run:.2f}",
                f"{precision}, compiling, s": f"{compiled:.1f}",
                f"ratio to {precision}": f"{run / took:.2f}",
                f"{precision}, logits off by": f"{off:.0e}",
            }
        run, compiled, off = _by_onnxruntime(target, state, layers, data.image)
        row |= {
            "ONNX Runtime, s": f"{run:.2f}",
            "compiling, s": f"{compiled:.1f}",
            "ratio to it": f"{run / took:.2f}",
            "logits off by": f"{off:.0e}",
        }
        rows.append(row)
    title = (
        f"\n### Compiled inference, every {every}th pair, {slices} slices of {size} x {size}; ratios to swaps alone\n\n"
    )
    return title + table(rows)


def _by_onnxruntime(
    target: nn.Module, source: Mapping[str, torch.Tensor], layers: list[Layer], images: np.ndarray
) -> tuple[float, float, float]:
    """Seconds of whole passes, seconds of compiling, and the largest relative difference of the logits to torch's."""
    batches = list(torch.from_numpy(images).unsqueeze(1).split(BATCH))
    run = compiled = off = 0.0
    for layer in layers:
        whole, value = Whole(target, layer, batches[0]), source[layer.tensor]
        compiled += whole.seconds
        run += seconds(lambda: [whole(batch, value).argmax(1) for batch in batches], 2)  # noqa: B023
        off = max(off, _off(target, layer, batches[0], value, whole(batches[0], value)))
    return run, compiled, off


def _off(target: nn.Module, layer: Layer, batch: torch.Tensor, value: torch.Tensor, found: np.ndarray) -> float:
    """The largest difference of logits to torch's, over the largest of these."""
    with torch.inference_mode():
        expected = OneTensor(target, layer.tensor)(batch, value).numpy()
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def _by_openvino(
    target: nn.Module, source: Mapping[str, torch.Tensor], layers: list[Layer], images: np.ndarray, precision: str
) -> tuple[float, float, float]:
    """Seconds behind the cuts, seconds of compiling, and the largest relative difference of the logits to torch's."""
    batches = list(torch.from_numpy(images).unsqueeze(1).split(BATCH))
    run = compiled = off = 0.0
    for layer in layers:
        cut = Cut(target, layer, batches[0], precision)
        compiled += cut.seconds
        crossing = [cut.before(batch) for batch in batches]
        value = source[layer.tensor]
        run += seconds(lambda: [cut.behind(value, own).argmax(1) for own in crossing], 2)  # noqa: B023
        off = max(off, _off(target, layer, batches[0], value, cut.behind(value, crossing[0])))
    return run, compiled, off
