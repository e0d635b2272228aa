"""Networks that people use, made tiny, and the oracle that every answer about them is held against.

``python tests/zoo.py`` prints docs/zoo.md.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from conftest import COMPUTE
from torch import nn

from prrmse import api
from prrmse.data.slices import Slices
from prrmse.engine.sweep import sweep
from prrmse.learning.dice import Counts
from prrmse.learning.evaluate import Evaluation
from prrmse.names import Layer
from prrmse.nets.layers import inventory, tensor_names
from prrmse.tables.markdown import markdown_table

CLASSES, BATCH = 3, 2
PLANE, LARGE, COLOUR, COLOUR_LARGE = (1, 32, 32), (1, 64, 64), (3, 32, 32), (3, 64, 64)
VOLUME = (1, 16, 16, 16)
NARROW = (16, 12, 8, 6, 4)


class Member(NamedTuple):
    """A network of the zoo: how to build it, one input's shape, which of its outputs counts, whether it segments."""

    build: Callable[[], nn.Module]
    shape: tuple[int, ...] = PLANE
    pick: Callable[[Any], torch.Tensor] = lambda made: made
    segments: bool = True

    @property
    def has_slices(self) -> bool:
        """Whether `Evaluation` and so the engines can be used, with slices or 3D patches."""
        return self.segments


def first(made: Any) -> torch.Tensor:
    return made[0]


def out(made: Any) -> torch.Tensor:
    return made["out"]


def nnunet(dimensions: int, residual: bool = False, deep_supervision: bool = False) -> nn.Module:
    """With the settings of nnU-Net's plans."""
    from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet

    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dimensions]
    blocks = {"n_blocks_per_stage" if residual else "n_conv_per_stage": [1, 2, 2]}
    network: nn.Module = (ResidualEncoderUNet if residual else PlainConvUNet)(
        input_channels=1,
        n_stages=3,
        features_per_stage=[4, 6, 8],
        conv_op=convolution,
        kernel_sizes=3,
        strides=[1, 2, 2],
        num_classes=CLASSES,
        n_conv_per_stage_decoder=[1, 1],
        conv_bias=True,
        norm_op=norm,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=deep_supervision,
        **blocks,
    )
    return network


def monai(name: str, *arguments: Any, **named: Any) -> nn.Module:
    import monai.networks.nets as nets

    network: nn.Module = getattr(nets, name)(*arguments, **named)
    return network


def dynunet(dimensions: int, **named: Any) -> nn.Module:
    return monai("DynUNet", dimensions, 1, CLASSES, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 6, 8], **named)


def smp(name: str, encoder: str = "tu-test_resnet", **named: Any) -> nn.Module:
    import segmentation_models_pytorch as package

    network: nn.Module = getattr(package, name)(encoder, encoder_weights=None, in_channels=1, classes=CLASSES, **named)
    return network


def torchvision(name: str, **named: Any) -> nn.Module:
    import torchvision.models as models

    family = models.segmentation if hasattr(models.segmentation, name) else models
    network: nn.Module = getattr(family, name)(weights=None, num_classes=CLASSES, **named)
    return network


def timm(name: str) -> nn.Module:
    from timm import create_model

    network: nn.Module = create_model(name, pretrained=False, num_classes=CLASSES, in_chans=1)
    return network


def ours(name: str, **arguments: Any) -> nn.Module:
    from prrmse.nets.build import build

    return build(name, out_channels=CLASSES, **arguments)


class Tied(nn.Module):
    """Two convolutions with one weight, and normalisations without parameters or without statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 4, 3, padding=1)
        self.there, self.back = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(2))
        self.back.weight = self.there.weight
        self.plain = nn.BatchNorm2d(4, affine=False)
        self.batch = nn.BatchNorm2d(4, track_running_stats=False)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.head = nn.Conv2d(4, CLASSES, 1, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.plain(self.there(self.stem(x))).relu()
        return self.head(self.scale * self.batch(self.back(x)))


class OwnNorm(nn.BatchNorm2d):
    """Whose statistics are arithmetic in ``forward``."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)


class InPlace(nn.Module):
    """Activations in place; ``again`` reads the value once more, after it was changed."""

    def __init__(self, again: bool) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, CLASSES, 1)
        self.norm, self.again = OwnNorm(4), again

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x))
        y = nn.functional.leaky_relu(x, 0.3, True)
        return self.head(y + x if self.again else nn.functional.elu(y, inplace=True))


def lazy() -> nn.Module:
    network = nn.Sequential(nn.LazyConv2d(4, 3, padding=1), nn.LazyBatchNorm2d(), nn.LazyConv2d(CLASSES, 1))
    network(torch.zeros(2, *PLANE))
    return network


ZOO: dict[str, Member] = {
    "our UNet": Member(lambda: ours("unet", width=4)),
    "our PSPNet": Member(lambda: ours("pspnet", width=4, head_width=16)),
    "nnU-Net PlainConvUNet 2D": Member(lambda: nnunet(2)),
    "nnU-Net PlainConvUNet 3D": Member(lambda: nnunet(3), VOLUME),
    "nnU-Net PlainConvUNet 2D, deep supervision": Member(lambda: nnunet(2, deep_supervision=True), PLANE, first),
    "nnU-Net PlainConvUNet 3D, deep supervision": Member(lambda: nnunet(3, deep_supervision=True), VOLUME, first),
    "nnU-Net ResidualEncoderUNet 2D": Member(lambda: nnunet(2, True)),
    "nnU-Net ResidualEncoderUNet 3D": Member(lambda: nnunet(3, True), VOLUME),
    "nnU-Net ResidualEncoderUNet 2D, deep supervision": Member(lambda: nnunet(2, True, True), PLANE, first),
    "nnU-Net ResidualEncoderUNet 3D, deep supervision": Member(lambda: nnunet(3, True, True), VOLUME, first),
    "MONAI UNet 2D": Member(lambda: monai("UNet", 2, 1, CLASSES, (4, 8, 12), (2, 2), num_res_units=1)),
    "MONAI UNet 3D": Member(lambda: monai("UNet", 3, 1, CLASSES, (4, 8, 12), (2, 2), norm="batch"), VOLUME),
    "MONAI DynUNet 2D": Member(lambda: dynunet(2)),
    "MONAI DynUNet 3D": Member(lambda: dynunet(3), VOLUME),
    "MONAI DynUNet 2D, residual": Member(lambda: dynunet(2, res_block=True, trans_bias=True)),
    "MONAI DynUNet 3D, residual": Member(lambda: dynunet(3, res_block=True), VOLUME),
    "MONAI DynUNet 2D, deep supervision": Member(lambda: dynunet(2, deep_supervision=True, deep_supr_num=1)),
    "MONAI SegResNet 2D": Member(lambda: monai("SegResNet", 2, 8, 1, CLASSES, blocks_down=(1, 1), blocks_up=(1,))),
    "MONAI SegResNet 3D": Member(
        lambda: monai("SegResNet", 3, 8, 1, CLASSES, blocks_down=(1, 1), blocks_up=(1,)), VOLUME
    ),
    "MONAI SegResNetDS 2D": Member(
        lambda: monai("SegResNetDS", 2, 8, 1, CLASSES, blocks_down=(1, 1, 1), dsdepth=2), PLANE
    ),
    "MONAI BasicUNet 2D": Member(lambda: monai("BasicUNet", 2, 1, CLASSES, (4, 4, 6, 6, 8, 4))),
    "MONAI BasicUNet 3D": Member(lambda: monai("BasicUNet", 3, 1, CLASSES, (2, 2, 3, 3, 4, 2)), (1, 32, 32, 32)),
    "MONAI BasicUNetPlusPlus 2D": Member(
        lambda: monai("BasicUNetPlusPlus", 2, 1, CLASSES, (4, 4, 6, 6, 8, 4)), PLANE, first
    ),
    "MONAI AttentionUnet 2D": Member(lambda: monai("AttentionUnet", 2, 1, CLASSES, (8, 16, 24), (2, 2))),
    "MONAI VNet 2D": Member(lambda: monai("VNet", 2, 1, CLASSES, dropout_dim=2)),
    "MONAI HighResNet 2D": Member(lambda: monai("HighResNet", 2, 1, CLASSES)),
    "MONAI SwinUNETR 2D": Member(
        lambda: monai(
            "SwinUNETR", 1, CLASSES, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), feature_size=12, spatial_dims=2
        ),
        LARGE,
    ),
    "MONAI UNETR 2D": Member(
        lambda: monai("UNETR", 1, CLASSES, 32, 4, hidden_size=16, mlp_dim=16, num_heads=2, spatial_dims=2)
    ),
    "MONAI UNETR 3D": Member(
        lambda: monai("UNETR", 1, CLASSES, (16, 16, 16), 4, hidden_size=16, mlp_dim=16, num_heads=2), VOLUME
    ),
    "smp Unet": Member(lambda: smp("Unet", decoder_channels=NARROW)),
    "smp Unet, resnet18": Member(lambda: smp("Unet", "resnet18", decoder_channels=NARROW)),
    "smp UnetPlusPlus": Member(lambda: smp("UnetPlusPlus", decoder_channels=NARROW)),
    "smp MAnet": Member(lambda: smp("MAnet", decoder_channels=(32, 16, 16, 8, 8))),
    "smp Linknet": Member(lambda: smp("Linknet")),
    "smp FPN": Member(lambda: smp("FPN", decoder_pyramid_channels=16, decoder_segmentation_channels=32), LARGE),
    "smp PSPNet": Member(lambda: smp("PSPNet", psp_out_channels=16), LARGE),
    "smp PAN": Member(lambda: smp("PAN", decoder_channels=8), (1, 128, 128)),
    "smp DeepLabV3": Member(lambda: smp("DeepLabV3", decoder_channels=16)),
    "smp DeepLabV3Plus": Member(lambda: smp("DeepLabV3Plus", decoder_channels=16)),
    "torchvision fcn_resnet50, auxiliary classifier": Member(
        lambda: torchvision("fcn_resnet50", weights_backbone=None, aux_loss=True), COLOUR, out
    ),
    "torchvision deeplabv3_mobilenet_v3_large, auxiliary classifier": Member(
        lambda: torchvision("deeplabv3_mobilenet_v3_large", weights_backbone=None, aux_loss=True), COLOUR, out
    ),
    "torchvision lraspp_mobilenet_v3_large": Member(
        lambda: torchvision("lraspp_mobilenet_v3_large", weights_backbone=None), COLOUR, out
    ),
    "torchvision resnet18": Member(lambda: torchvision("resnet18"), COLOUR, segments=False),
    "torchvision densenet121": Member(lambda: torchvision("densenet121"), COLOUR, segments=False),
    "torchvision mobilenet_v3_small": Member(lambda: torchvision("mobilenet_v3_small"), COLOUR, segments=False),
    "torchvision efficientnet_b0": Member(lambda: torchvision("efficientnet_b0"), COLOUR, segments=False),
    "torchvision convnext_tiny": Member(lambda: torchvision("convnext_tiny"), COLOUR, segments=False),
    "torchvision googlenet, auxiliary classifiers": Member(
        lambda: torchvision("googlenet", aux_logits=True, init_weights=False), COLOUR_LARGE, segments=False
    ),
    "timm resnet18": Member(lambda: timm("resnet18"), segments=False),
    "timm mobilenetv3_small_050": Member(lambda: timm("mobilenetv3_small_050"), segments=False),
    "timm test_convnext": Member(lambda: timm("test_convnext"), segments=False),
    "timm test_nfnet (computed weights)": Member(lambda: timm("test_nfnet"), segments=False),
    "one convolution": Member(lambda: nn.Conv2d(1, CLASSES, 3, padding=1)),
    "tied weights": Member(Tied),
    "own normalisation, functions in place": Member(lambda: InPlace(False)),
    "a value read after a change in place": Member(lambda: InPlace(True)),
    "built lazily": Member(lazy),
}


# The convolution that maps to the outputs, where another one that does not reach them is registered behind it.
FINAL = {
    "torchvision fcn_resnet50, auxiliary classifier": ["classifier.4"],
    "torchvision deeplabv3_mobilenet_v3_large, auxiliary classifier": ["classifier.4"],
    "MONAI DynUNet 2D, deep supervision": ["output_block.conv.conv"],
}


def make(name: str, seed: int) -> nn.Module:
    """In evaluation mode; vectors and statistics drawn too, so that no swap is a swap of equals."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = ZOO[name].build()
    with torch.no_grad():
        for tensor in network.parameters():
            if tensor.ndim == 1:
                tensor.add_(0.2 * torch.randn_like(tensor))
        for path, tensor in network.named_buffers():
            if path.endswith("running_mean"):
                tensor.normal_(0, 0.2)
            elif path.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
    return network.eval()


def images(name: str, number: int = 3) -> torch.Tensor:
    """``[N, C, ...]``; of an input of several channels all are alike, as `Evaluation` has them."""
    channels, *size = ZOO[name].shape
    drawn = torch.rand(number, 1, *size, generator=torch.Generator().manual_seed(1))
    return drawn.expand(-1, channels, *size).contiguous()


def slices(name: str) -> Slices:
    """Those images as slices, or 3D patches, of two patients, with labels at random."""
    grey = images(name)[:, 0].numpy()
    label = np.random.default_rng(2).integers(0, CLASSES, grey.shape).astype(np.uint8)
    index = pd.DataFrame({"patient": ["a", "a", "b"], "frame": "1", "slice": range(3), "split": "val"})
    meta = {"dataset": "noise", "classes": {"1": "one", "2": "two"}, "spacing_mm": 1.0, "provenance": "synthetic"}
    return Slices(grey[:, None] if grey.ndim == 4 else grey, label, index, meta)


def evaluation(name: str) -> Evaluation:
    return Evaluation(
        slices(name), COMPUTE.model_copy(update={"evaluation_batch_size": BATCH}), CLASSES, ZOO[name].shape[0]
    )


def score(name: str) -> Callable[[nn.Module], dict[str, float]]:
    """A user's own ``evaluate``."""
    return lambda network: summary(called(name, network))


def summary(output: torch.Tensor) -> dict[str, float]:
    """Something of every image in which each change of the output shows."""
    values = output.double().flatten(1)
    weight = torch.linspace(1, 2, values.shape[1], dtype=torch.float64)
    return {str(i): float(value) for i, value in enumerate((values * weight).mean(1))}


@contextlib.contextmanager
def assigned(network: nn.Module, source: nn.Module, layers: Sequence[Layer]) -> Iterator[None]:
    """The oracle's swap: the module's attribute is given the source's values, in place."""
    before = []
    for layer in layers:
        attribute = layer.tensor.rpartition(".")[2]
        own, other = (getattr(n.get_submodule(layer.module), attribute) for n in (network, source))
        before.append((own, own.data.clone()))
        own.data.copy_(other.data)
    try:
        yield
    finally:
        for own, values in before:
            own.data.copy_(values)


@torch.no_grad()
def called(name: str, network: nn.Module) -> torch.Tensor:
    return torch.cat([ZOO[name].pick(network(part)) for part in images(name).split(BATCH)]).clone()


def counted(name: str, output: torch.Tensor) -> np.ndarray:
    """Pixels in both, predicted, true: ``[3, P, C]``."""
    predicted, held = output.argmax(1).numpy(), slices(name)
    patient = held.index["patient"].to_numpy()

    def pixels(mask: np.ndarray) -> list[int]:
        return [int(mask[patient == p].sum()) for p in held.patients()]

    both, own, true = [], [], []
    for c in range(CLASSES):
        both.append(pixels((predicted == c) & (held.label == c)))
        own.append(pixels(predicted == c))
        true.append(pixels(held.label == c))
    return np.array([both, own, true]).transpose(0, 2, 1)


def near_ties(output: torch.Tensor) -> int:
    """Pixels whose two largest classes are equal up to the rounding of float32 in some layers."""
    two = output.topk(2, dim=1).values
    return int((two[:, 0] - two[:, 1] < 1e-4 * output.abs().max()).sum())


class Expected(NamedTuple):
    """What the oracle finds: its output, and that with each pair."""

    own: torch.Tensor
    swapped: list[torch.Tensor]

    def moved(self) -> list[bool]:
        """Whether each pair changes a bit of the output."""
        return [not torch.equal(output, self.own) for output in self.swapped]


def oracle(name: str, network: nn.Module, source: nn.Module, layers: Sequence[Layer]) -> Expected:
    swapped = []
    for layer in layers:
        with assigned(network, source, [layer]):
            swapped.append(called(name, network))
    return Expected(called(name, network), swapped)


def differing(name: str, found: tuple[Counts, list[Counts]], expected: Expected, engine: str) -> int:
    """Pairs (and the network itself) whose counts are not the oracle's; for ``fast`` by more than near-ties."""
    number = 0
    for counts, output in zip([found[0], *found[1]], [expected.own, *expected.swapped], strict=True):
        allowed = near_ties(output) if engine == "fast" else 0
        number += int(np.abs(np.array(counts) - counted(name, output)).max() > allowed)
    return number


class Answer(NamedTuple):
    counts: tuple[Counts, list[Counts]]
    seconds: float
    fell_back: bool


def swept(name: str, network: nn.Module, source: nn.Module, layers: Sequence[Layer], engine: str) -> Answer:
    """By one engine, and whether it had to run the whole network for each swap."""
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("prrmse.engine.sweep")
    logger.addHandler(handler)
    start = time.process_time()
    try:
        counts = sweep(network, source.state_dict(), layers, evaluation(name), engine=engine)
    finally:
        logger.removeHandler(handler)
    return Answer(counts, time.process_time() - start, any("is run for each swap" in m for m in messages))


def row(name: str) -> dict[str, object]:
    """One line of the table: every pair of a network, by every way."""
    network, source = make(name, 0), make(name, 1)
    layers, state = inventory(network), network.state_dict()
    expected = oracle(name, network, source, layers)
    start = time.process_time()
    table = api.sweep(network, source.state_dict(), score(name))
    seconds = time.process_time() - start
    pairs = table.drop_duplicates("tensor")
    scores = {
        layer.tensor: list(summary(output).values()) for layer, output in zip(layers, expected.swapped, strict=True)
    }
    wrong = sum(table.loc[table["tensor"] == tensor, "score"].tolist() != right for tensor, right in scores.items())
    silent = sum(not moved for moved in expected.moved())
    found: dict[str, object] = {
        "network": name,
        "names": len(state),
        "tensors": len(tensor_names(state)),
        "pairs": len(layers),
        "no kind": len(api.inspect(network).attrs["without_kind"]),
        "no effect": int((~pairs["effect"]).sum()),
        "unmoved": silent,
        "own evaluate": f"{wrong} ({seconds:.1f} s)",
    }
    for engine in ("plain", "exact", "fast"):
        if ZOO[name].has_slices:
            answer = swept(name, network, source, layers, engine)
            wrong = differing(name, answer.counts, expected, engine)
            found[engine] = f"{wrong} ({answer.seconds:.1f} s)"
            if engine == "exact":
                found["traced"] = "no" if answer.fell_back else "yes"
        else:
            found[engine] = found["traced"] = "-"
    return found


HEAD = """# The zoo: networks that the answers are checked on

Every pair of each network is swapped by every way there is and compared with an oracle, which assigns the tensor in
place by its module's attribute and calls the network: the numbers are pairs with another answer (for `fast` by more
pixels than have two classes equal up to 1e-4 of the largest output), and CPU seconds on one thread.
`python tests/zoo.py` prints this; `tests/test_zoo.py` checks the same on some pairs of each network.
"""
TAIL = """
`names`: of the state; `tensors`: without repetition; `no kind`: parameters that are in no pair (of linear layers, say);
`no effect`: pairs that are named so and left out of all shares, because they do not reach the output; `unmoved`: pairs
whose swap changes no bit of the output, by the oracle; `traced`: if not, the whole network is run for each swap. The
output is the first of a list or tuple, `out` of a dict, or its only tensor. 3D networks are swept with 3D patches.
Classifiers are swept by an `evaluate` of one's own only: they have no other way.
"""


def main() -> None:
    """The rows that a file named on the command line has, one JSON object a line, are not made again."""
    torch.set_num_threads(1)
    logging.getLogger("prrmse").addHandler(logging.NullHandler())  # which warnings fell back is a column
    kept = Path(sys.argv[1]) if len(sys.argv) > 1 else None
    lines = kept.read_text().splitlines() if kept and kept.exists() else []
    rows = {row["network"]: row for row in map(json.loads, lines)}
    for name in ZOO:
        if name not in rows:
            rows[name] = row(name)
            if kept:
                with kept.open("a") as f:
                    print(json.dumps(rows[name]), file=f)
    print(HEAD)
    print(markdown_table(pd.DataFrame(rows[name] for name in ZOO)))
    print(TAIL, end="")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
