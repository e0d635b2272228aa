"""How networks are initialised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from prrmse.errors import InputError
from prrmse.nets.build import build_network
from prrmse.nets.foreign import fit, read_state
from prrmse.nets.pspnet import PSPNet
from prrmse.seeding import derive_seed


def initialise(
    net: str,
    arguments: dict[str, Any],
    init: str,
    pretrained: str,
    model: str,
    seed: int,
    factory: str | None = None,
) -> nn.Module:
    """A network at its starting point.

    Args:
        net: name of the network.
        arguments: its constructor's arguments.
        init: ``shared``: one random draw per network, the same for every base model and seed (as the
            paper's PSPNet, whose models all start from ImageNet); ``independent``: one per (model, seed).
        pretrained: ``none``, ``imagenet`` or a file of weights for the ResNet-18 backbone.
        model: id of the base model; used by ``independent`` only.
        seed: run seed; used by ``independent`` only.
        factory: import path of a network that is not ours (`build_network`).
    """
    identity = (net, "init") if init == "shared" else (net, "init", model, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*identity))
        network = build_network(factory or net, arguments)
    if pretrained != "none":
        if not isinstance(network, PSPNet):
            raise InputError(f"nets.{net}.pretrained: only pspnet has a pretrained backbone; set it to none")
        load_backbone(network, pretrained)
    return network


def load_backbone(network: PSPNet, pretrained: str) -> None:
    """Load ResNet-18 weights into the backbone, strictly but for the classifier.

    ``imagenet`` takes torchvision's own download (hash-checked); anything else is a local ``.pth`` or
    ``.safetensors`` file with torchvision's names. A 3-channel first kernel is summed over its input
    channels for a 1-channel network, which equals feeding the grey image three times.

    Raises:
        InputError: the file or the download is missing, or a tensor is missing or of another shape.
    """
    fitted, table = fit(network.backbone.state_dict(), _resnet18_weights(pretrained))
    odd = table[table["status"].isin(["missing", "other shape"])]
    if len(odd):
        first = odd.iloc[0]
        detail = f"{first['tensor']} has shape {first['shape_other']}, not" if first["shape_other"] else "no tensor"
        detail += f" {first['shape']}" if first["shape_other"] else f" {first['tensor']}"
        raise InputError(f"nets.pspnet.pretrained: {pretrained} does not fit a ResNet-18: {detail}")
    network.backbone.load_state_dict(fitted)


def _resnet18_weights(pretrained: str) -> dict[str, torch.Tensor]:
    if pretrained == "imagenet":
        from torchvision.models import ResNet18_Weights

        try:
            return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True))
        except OSError as e:
            raise InputError(
                f"nets.pspnet.pretrained: imagenet weights could not be downloaded ({e}); "
                "download torchvision's resnet18-f37072fd.pth elsewhere and name the file instead"
            ) from None
    try:
        return read_state(pretrained)
    except InputError as e:
        raise InputError(f"nets.pspnet.pretrained: cannot be read as weights: {e}") from None


def starting_point(net: str, spec: Mapping[str, Any], init: str, model: str, seed: int) -> nn.Module:
    """`initialise` for a network's entry in ``nets``."""
    return initialise(net, spec["arguments"], init, spec["pretrained"], model, seed, spec.get("factory"))
