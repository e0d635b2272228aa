"""The inventory of a network's reusable parameters: kind, layer number, module, tensor.

``W``, ``B`` are weight and bias of convolutions (1D to 3D, transposed, grouped), ``RM``, ``RV``, ``RW``, ``RB``
running mean, running variance, weight and bias of normalisations: batch, and as far as they have them, instance,
group and layer normalisation (the paper has batch normalisation only). Each kind is numbered from 1 in registration
order: so for a network of convolutions and BN, separately for convolutions (W), biased convolutions (B) and BN
layers. That this is the paper's order is a reconstruction.

A network may register one tensor under several names (nnU-Net's decoder holds its encoder; tied weights). It is one
pair, by the first of the names; `tensor_names` lists all of them.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from prrmse.errors import InputError
from prrmse.names import BN_KINDS, CONV_KINDS, KINDS, Layer

# Parameters and buffers by name, as in a ``state_dict``; NumPy's are `prrmse.nets.arrays.Arrays`.
State = Mapping[str, torch.Tensor]

CONVOLUTIONS = (nn.modules.conv._ConvNd,)
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


def tensor_names(state: Mapping[str, torch.Tensor]) -> dict[str, tuple[str, ...]]:
    """All names of each tensor of a state, by the first of them.

    Names share a tensor if it is the same memory, as in a network's ``state_dict()`` and in what ``torch.load`` reads.
    Copies do not: take the names before cloning.
    """
    first: dict[Hashable, str] = {}
    names: dict[str, tuple[str, ...]] = {}
    for name, tensor in state.items():
        canonical = first.setdefault(_memory(tensor), name)
        names[canonical] = (*names.get(canonical, ()), name)
    return names


def under_all_names(state: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Values by name, and each also by the other names that its tensor has in ``state``, where those are not given."""
    found = dict(values)
    for names in tensor_names(state).values():
        given = next((values[name] for name in names if name in values), None)
        if given is not None:
            found.update((name, given) for name in names if name not in values)
    return found


def state_digest(state: Mapping[str, object]) -> str:
    """SHA-256 of a state: names, dtypes, shapes and bytes of its tensors; what is no tensor is passed over."""
    digest = hashlib.sha256()
    for name, value in state.items():
        if isinstance(value, torch.Tensor):
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _memory(tensor: torch.Tensor) -> Hashable:
    """Equal for two tensors of the same contents in the same memory."""
    if tensor.layout is not torch.strided or tensor.data_ptr() == 0:  # no memory of its own: empty, meta, sparse
        return id(tensor)
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()


@contextlib.contextmanager
def replaced(network: nn.Module, change: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Context in which a network's tensors have other values, written in place, so under all names; then their own.

    Nothing else is copied, and no hook of ``load_state_dict`` is called.

    Args:
        network: of any device and dtype.
        change: values by name; one name of each tensor is enough.

    Raises:
        ValueError: the network has no such tensor, or one of another shape; names it.
    """
    own = network.state_dict()
    for name in change:
        if name not in own:
            raise ValueError(f"{name}: not in the network")
        check_fits(change, own, name)
    before = {name: own[name].clone() for name in change}
    try:
        fill(own, change)
        yield
    finally:
        fill(network.state_dict(), before)  # not ``own``: moving a network to a device gives it other memory


@torch.no_grad()
def fill(own: Mapping[str, torch.Tensor], values: Mapping[str, torch.Tensor]) -> None:
    """Write values by name into tensors of the same shapes, in place."""
    for name, value in values.items():
        own[name].copy_(value)


def normalises_by_batch(network: nn.Module) -> bool:
    """Whether outputs depend on which slices are evaluated together: a normalisation has no running statistics."""
    return any(isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None for m in network.modules())


def inventory(network: nn.Module, ineffective: Collection[str] = ()) -> list[Layer]:
    """Every (kind, layer) pair of a network, by kind, then by layer.

    A pair is ``final`` if it belongs to the convolution that maps to the outputs: that one is reported apart and never
    reused unless asked. It is ``network.final_name``, or else the convolution that is registered last, unless
    something else with parameters comes after it.

    Only what the ``state_dict`` holds can be a pair: not a weight that is computed from others (parametrisations).

    Args:
        network: whose pairs.
        ineffective: tensors that do not reach the output (`prrmse.learning.reach`): an auxiliary head is not ``final``.

    Raises:
        InputError: a layer is built lazily and has no tensors yet.
    """
    final = getattr(network, "final_name", None) or _last_convolution(network, ineffective)
    found: dict[str, list[Layer]] = {kind: [] for kind in KINDS}
    seen: set[Hashable] = set()
    for name, module in network.named_modules():
        for kind, attribute in _kinds_of(module).items():
            tensor = module._parameters.get(attribute, module._buffers.get(attribute))
            if tensor is None:
                continue
            full = f"{name}.{attribute}".removeprefix(".")
            if is_lazy(tensor):
                raise InputError(f"{full}: has no shape yet (a lazily built layer); run the network once on an image")
            memory = _memory(tensor)
            if memory not in seen:
                seen.add(memory)
                number = len(found[kind]) + 1
                found[kind].append(Layer(kind, number, name, full, tensor.numel(), name == final))
    return [layer for kind in KINDS for layer in found[kind]]


def norm_eps(network: nn.Module) -> dict[str, float]:
    """``eps`` of every normalisation of a network, by module."""
    return {name: float(module.eps) for name, module in network.named_modules() if isinstance(module, NORMS)}


def without_kind(tensors: Mapping[str, torch.Tensor], layers: Iterable[Layer]) -> dict[str, int]:
    """Scalars of each floating-point tensor that is in no pair (linear layers, embeddings and others), by first name.

    Args:
        tensors: a network's ``named_parameters()``, or a state.
        layers: its pairs.
    """
    pairs = {layer.tensor for layer in layers}
    outside = {first: tensors[first] for first, names in tensor_names(tensors).items() if not pairs.intersection(names)}
    return {name: tensor.numel() for name, tensor in outside.items() if tensor.is_floating_point()}


def outside_of_pairs(network: nn.Module) -> dict[str, int]:
    """`without_kind` of a network's own parameters."""
    return without_kind(dict(network.named_parameters()), inventory(network))


def _kinds_of(module: nn.Module) -> dict[str, str]:
    if isinstance(module, CONVOLUTIONS):
        return CONV_KINDS
    return BN_KINDS if isinstance(module, NORMS) else {}


def _last_convolution(network: nn.Module, ineffective: Collection[str]) -> str | None:
    names = [name for name, _ in network.named_parameters() if name not in ineffective]
    last = names[-1].rpartition(".")[0] if names else ""
    return last if names and isinstance(network.get_submodule(last), CONVOLUTIONS) else None


def inventory_of_state(state: State) -> list[Layer]:
    """The pairs of a checkpoint whose network is not at hand, told by the names and dimensions of its tensors.

    A module with a weight of three or more dimensions is a convolution, one with weight and bias of one dimension or
    with running statistics a normalisation; anything else (a linear layer, PReLU) has no pairs. None is known to be
    ``final``. Tensors that share memory are one, as in `tensor_names`.
    """
    modules: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in state.items():
        module, _, attribute = name.rpartition(".")
        modules.setdefault(module, {})[attribute] = tensor
    first_names = tensor_names(state)
    found: dict[str, list[Layer]] = {kind: [] for kind in KINDS}
    for module, tensors in modules.items():
        weight = tensors.get("weight")
        if weight is not None and weight.ndim >= 3:
            kinds = CONV_KINDS
        elif "running_mean" in tensors or (weight is not None and weight.ndim == 1 and "bias" in tensors):
            kinds = BN_KINDS
        else:
            continue
        for kind, attribute in kinds.items():
            name, number = f"{module}.{attribute}".removeprefix("."), len(found[kind]) + 1
            if name in first_names:
                found[kind].append(Layer(kind, number, module, name, tensors[attribute].numel(), False))
    return [layer for kind in KINDS for layer in found[kind]]


def swap(target: State, source: State, layers: Iterable[Layer]) -> dict[str, torch.Tensor]:
    """The target's state with these layers' tensors taken from the source: R(target, source; S).

    Args:
        target, source: states by tensor name, of the same network. Where the target's names share tensors, as they do
            in a ``state_dict()``, all names of a tensor are written.
        layers: the pairs S to take from the source.

    Returns:
        A new dict of cloned tensors: neither argument is aliased (a trap: ``state_dict`` returns views).

    Raises:
        ValueError: a tensor is missing in the source or has another shape; names it.
    """
    values = {}
    for layer in layers:
        check_fits(source, target, layer.tensor)
        values[layer.tensor] = source[layer.tensor]
    return {name: tensor.clone() for name, tensor in {**target, **under_all_names(target, values)}.items()}


def check_fits(source: State, target: State, tensor: str) -> None:
    """Raise ValueError if the source has no such tensor, or one of another shape than the target's."""
    if tensor not in source:
        raise ValueError(f"{tensor}: not in the source")
    if source[tensor].shape != target[tensor].shape:
        shapes = f"{tuple(source[tensor].shape)} != {tuple(target[tensor].shape)}"
        raise ValueError(f"{tensor}: shape of source and target differ: {shapes}")
