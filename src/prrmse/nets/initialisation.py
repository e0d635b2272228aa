"""How networks are initialised."""

from __future__ import annotations

import torch
from torch import nn

from prrmse.errors import InputError
from prrmse.nets.build import seeded_network
from prrmse.nets.foreign import fit, read_state
from prrmse.nets.pspnet import PSPNet
from prrmse.settings import Network


def initialised_network(net: str, spec: Network, init: str, model: str, seed: int) -> nn.Module:
    """A network at its initialisation.

    Args:
        net: name of the network.
        spec: how it is built; ``pretrained``: ``none``, ``imagenet`` or a file of weights for the ResNet-18 backbone.
        init: ``shared``: one random draw per network, the same for every base model and seed (as the
            paper's PSPNet, whose models all start from ImageNet); ``independent``: one per (model, seed).
        model: id of the base model; used by ``independent`` only.
        seed: run seed; used by ``independent`` only.
    """
    identity = (net, "init") if init == "shared" else (net, "init", model, seed)
    network = seeded_network(spec.factory or net, spec.keywords, *identity)
    if isinstance(network, PSPNet) and spec.pretrained != "none":
        load_backbone(network, spec.pretrained)
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
        raise InputError(f"<pretrained:pspnet>: {pretrained} does not fit a ResNet-18: {detail}")
    network.backbone.load_state_dict(fitted)


def _resnet18_weights(pretrained: str) -> dict[str, torch.Tensor]:
    if pretrained == "imagenet":
        from torchvision.models import ResNet18_Weights

        try:
            return dict(ResNet18_Weights.IMAGENET1K_V1.get_state_dict(check_hash=True))
        except OSError as e:
            raise InputError(
                f"<pretrained:pspnet>: imagenet weights could not be downloaded ({e}); "
                "download torchvision's resnet18-f37072fd.pth elsewhere and name the file instead"
            ) from None
    try:
        return read_state(pretrained)
    except InputError as e:
        raise InputError(f"<pretrained:pspnet>: cannot be read as weights: {e}") from None
