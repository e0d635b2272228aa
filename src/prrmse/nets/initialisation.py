"""How networks are initialised."""

from __future__ import annotations

from torch import nn

from prrmse.nets.build import seeded_network
from prrmse.nets.pretrained import load_pretrained
from prrmse.settings import Network


def initialised_network(net: str, spec: Network, init: str, model: str, seed: int) -> nn.Module:
    """A network at its initialisation.

    Args:
        net: name of the network.
        spec: how it is built, and the weights that it starts from, if any (`prrmse.nets.pretrained.load_pretrained`).
        init: ``shared``: one random draw per network, the same for every base model and seed (as the
            paper's PSPNet, whose models all start from ImageNet); ``independent``: one per (model, seed). What
            ``spec`` says comes first.
        model: id of the base model; used by ``independent`` only.
        seed: run seed; used by ``independent`` only.
    """
    identity = (net, "init") if (spec.init or init) == "shared" else (net, "init", model, seed)
    network = seeded_network(spec.factory or net, spec.keywords, *identity, trust=spec.trust)
    if spec.weights is not None:
        load_pretrained(net, network, spec.weights)
    return network
