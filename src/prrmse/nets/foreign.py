"""Checkpoints that come from elsewhere: opened without running their code, and fitted name by name."""

from __future__ import annotations

import logging
import stat
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from prrmse.errors import InputError
from prrmse.nets.layers import tensor_names
from prrmse.nets.opcodes import CallRecord, NotReadableError, OtherFormatError
from prrmse.nets.torchfile import NUMBERS, TensorError, TorchFile, open_torch_file

log = logging.getLogger(__name__)

State = dict[str, torch.Tensor]
KeyPath = tuple[str, ...]
Nodes = dict[str, object]

# Where training programs put a state, in the order in which one is taken where a file has several. Averaged weights
# come first, as in the loaders of timm (``use_ema``) and DINO (``checkpoint_key="teacher"``).
ENTRIES = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "params_ema", "teacher",
    "state_dict", "network_weights", "model_state_dict", "model_state", "model", "network", "net", "module", "params",
    "weights", "student",
)  # fmt: skip
# States of these are not weights of a network; they are taken only if named.
NOT_WEIGHTS = ("optim", "sched", "scaler", "rng", "random", "callbacks", "loops", "loss", "criterion")
# Names that wrappers of torch put into a module's path, and one that averaging adds to the state.
WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")
AVERAGED = "n_averaged"
# What nnU-Net calls the file of a finished training.
FINAL = "checkpoint_final.pth"
DEEPEST = 8
MOST_MODULES = 100_000


def read_state(path: str | Path, entry: str | None = None) -> State:
    """The tensors of a ``.safetensors``, ``.pt``, ``.pth``, ``.ckpt`` or other file of torch or pickle, on the CPU.

    No code of the file is run: what is no tensor is skipped, and what it would import is logged. Wrappings such as
    ``state_dict`` or ``network_weights`` are taken off in the order of `ENTRIES`, and so are ``module.`` where all
    names have it and the wrappers of ``torch.compile`` and FSDP. A whole network pickled by ``torch.save(network)`` is
    read as its parameters and buffers. docs/checkpoints.md lists what is known.

    Args:
        path: the file, or nnU-Net's folder of a training (`file_of`).
        entry: which state, where the file has several; a name of `state_entries`, or the last part of one.

    Raises:
        InputError: the file is missing, damaged, no checkpoint, has no such entry, or a tensor is not dense and real.
    """
    path = checkpoint_file(path)
    if path.suffix == ".safetensors" or _is_safetensors(path):
        if entry is not None:
            raise InputError(f"{path}: <entry> {entry}: a safetensors file has one state; leave <entry> out")
        state = _safetensors(path)
    else:
        with _opened(path) as file:
            found = _states(file, path)
            place = _chosen(found, path) if entry is None else _named(found, entry, path)
            if others := [_shown(p) for p in found if p != place and not _is_no_weights(p)]:
                log.info("%s: took the state %s; it also has %s", path, _shown(place), ", ".join(others))
            if strange := file.foreign_names():
                names = ", ".join(map(_word, strange[:8])) + (", ..." if len(strange) > 8 else "")
                log.info("%s: nothing of it was run; other programs may import %s when they load it", path, names)
            state = {name: _tensor(file, name, node, path) for name, node in found[place].items()}
    for name, tensor in state.items():
        if tensor.dtype not in NUMBERS.values():
            kind = str(tensor.dtype).removeprefix("torch.")
            raise InputError(f"{path}: the tensor {_word(name)} has numbers of type {kind}; it must be dense and real")
    _warn_of_strange_numbers(state, path)
    return _bare(state)


def state_entries(path: str | Path) -> dict[str, int]:
    """The states in a file by name (``teacher``, ``model.state_dict``, ...), with their numbers of tensors.

    The empty name is the top of the file itself. States of optimisers and their like (`NOT_WEIGHTS`) are left out.

    Raises:
        InputError: as `read_state`.
    """
    path = checkpoint_file(path)
    if path.suffix == ".safetensors" or _is_safetensors(path):
        return {"": len(_safetensors(path))}
    with _opened(path) as file:
        return {
            ".".join(place): len(nodes) for place, nodes in _states(file, path).items() if not _is_no_weights(place)
        }


def file_of(path: str | Path) -> Path:
    """The checkpoint that a path stands for: of nnU-Net's folder of one or several folds the final one, else itself.

    Raises:
        InputError: several folds are finished; names their files.
    """
    path = Path(path)
    try:
        if (path / FINAL).is_file():
            return path / FINAL
        found = sorted(path.glob(f"fold_*/{FINAL}"))
    except (OSError, ValueError):  # a null byte in the path, no permission: `checkpoint_file` says so
        return path
    if len(found) > 1:
        names = ", ".join(str(file.relative_to(path)) for file in found)
        raise InputError(f"{path}: holds {len(found)} checkpoints; name one of {names}")
    return found[0] if found else path


def checkpoint_file(path: str | Path) -> Path:
    """`file_of`, which is a file that can be opened and is not empty.

    Raises:
        InputError: it is not; names it.
    """
    path = file_of(path)
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file; name a .safetensors, .pt or .pth file") from None
    except (OSError, ValueError) as e:  # ValueError: a null byte in the path
        raise InputError(f"{path}: cannot be read ({_short(e)})") from None
    if not stat.S_ISREG(status.st_mode):
        kind = "a folder; name a file in it" if stat.S_ISDIR(status.st_mode) else "not a file"
        raise InputError(f"{path}: {kind}")
    if not status.st_size:
        raise InputError(f"{path}: not a complete checkpoint (empty); copy it again")
    return path


def _is_safetensors(path: Path) -> bool:
    """Whether a file has the beginning of the format, whatever it is called: a length, then a JSON object."""
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({_short(e)})") from None
    return start[8:] == b"{" and 2 <= int.from_bytes(start[:8], "little") < path.stat().st_size


def _safetensors(path: Path) -> State:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, AttributeError) as e:
        raise InputError(f"{path}: not a complete safetensors file ({_short(e)}); copy it again") from None


def _opened(path: Path) -> TorchFile:
    try:
        return open_torch_file(path)
    except OtherFormatError as e:
        raise InputError(f"{path}: {e}") from None
    except NotReadableError as e:
        raise InputError(
            f"{path}: not a complete checkpoint ({_short(e)}); copy it again, or name another file"
        ) from None
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({_short(e)})") from None


def _states(file: TorchFile, path: Path) -> dict[KeyPath, Nodes]:
    """Every mapping of names to tensors in a file, by the keys that lead to it, outermost first."""
    found: dict[KeyPath, Nodes] = {}
    waiting: deque[tuple[KeyPath, object]] = deque([((), file.tree)])
    seen: set[int] = set()
    first: list[str] = []
    while waiting:
        place, node = waiting.popleft()
        mapping = _mapping(node, path)
        if mapping is None or id(node) in seen:  # a mapping can hold itself
            continue
        seen.add(id(node))
        first = first or [_word(str(key)) for key in mapping if isinstance(key, str)][:8]
        tensors = {key: value for key, value in mapping.items() if isinstance(key, str) and file.is_tensor(value)}
        if tensors:
            found[place] = tensors
        if len(place) < DEEPEST:
            waiting += [((*place, key), value) for key, value in mapping.items() if isinstance(key, str)]
    if not found:
        what = f"no tensors by name (its keys: {', '.join(first)})" if first else f"a {_kind(file.tree)}, no state"
        raise InputError(f"{path}: holds {what}; save the network's state_dict()")
    return found


def _mapping(node: object, path: Path) -> Mapping[object, object] | None:
    """A node as a mapping: a dict, a class derived from it, the attributes of an object, or a network's state."""
    if isinstance(node, dict):
        return node
    if not isinstance(node, CallRecord):
        return None
    if isinstance(node.state, dict) and isinstance(node.state.get("_modules"), CallRecord | dict):
        return dict(_network_state(node, path))
    if node.items:
        return node.items
    if node.path == "collections.OrderedDict" and isinstance(node.arguments, tuple) and node.arguments:
        pairs = node.arguments[0]  # Python 2 pickles the pairs as one list
        if isinstance(pairs, list):
            return {x[0]: x[1] for x in pairs if isinstance(x, list | tuple) and len(x) == 2 and isinstance(x[0], str)}
    return node.state if isinstance(node.state, dict) else None


def _network_state(network: CallRecord, path: Path) -> Iterator[tuple[str, object]]:
    """Names and nodes of a pickled network's parameters and persistent buffers, in the order of its ``state_dict``."""
    waiting: list[tuple[str, object, int]] = [("", network, 0)]
    count = 0
    while waiting:
        prefix, module, depth = waiting.pop()
        state = module.state if isinstance(module, CallRecord) and isinstance(module.state, dict) else {}
        unsaved = state.get("_non_persistent_buffers_set")
        skipped = [x for x in unsaved if isinstance(x, str)] if isinstance(unsaved, list) else []
        if isinstance(unsaved, CallRecord) and isinstance(unsaved.arguments, tuple) and unsaved.arguments:
            skipped += unsaved.arguments[0] if isinstance(unsaved.arguments[0], list) else []
        for group in ("_parameters", "_buffers"):
            for name, node in (_plain(state.get(group)) or {}).items():
                if node is not None and name not in skipped:
                    yield f"{prefix}{name}", node
        children = (_plain(state.get("_modules")) or {}).items()
        count += 1 + len(children)
        if count > MOST_MODULES or depth > 100:
            raise InputError(f"{path}: a network of more than {MOST_MODULES} modules, or that holds itself; save its "
                             "state_dict()")  # fmt: skip
        waiting += [(f"{prefix}{name}.", child, depth + 1) for name, child in reversed(children) if child is not None]


def _plain(node: object) -> dict[object, object] | None:
    return node if isinstance(node, dict) else node.items if isinstance(node, CallRecord) else None


def _chosen(found: dict[KeyPath, Nodes], path: Path) -> KeyPath:
    """The state to take if none is named: known places first, else the only one that can be weights."""
    ranks = {place: [ENTRIES.index(key) for key in place] for place in found if set(place) <= set(ENTRIES)}
    known = [place for place in ranks if place]
    if known:  # of a wrapping and what it wraps, the inner
        return min(known, key=lambda place: [*ranks[place], len(ENTRIES)])
    others = [place for place in found if place and not _is_no_weights(place)]
    top = len(found.get((), ()))
    deeper = sum(len(found[place]) for place in others)
    if top > deeper or not others:
        if top:
            return ()
        others = list(found)
    if len(others) == 1:
        return others[0]
    raise InputError(f"{path}: holds {len(found)} states and none under a usual name; name one with <entry>: "
                     f"{', '.join(_shown(place) for place in found)}")  # fmt: skip


def _is_no_weights(place: KeyPath) -> bool:
    return any(word in key.lower() for key in place for word in NOT_WEIGHTS)


def _named(found: dict[KeyPath, Nodes], entry: str, path: Path) -> KeyPath:
    exact = [place for place in found if ".".join(place) == entry]
    matching = exact or [place for place in found if place and place[-1] == entry]
    if len(matching) != 1:
        problem = "no such state" if not matching else "several states"
        raise InputError(f"{path}: <entry> {_word(entry)}: {problem}; it has {', '.join(map(_shown, found))}")
    return matching[0]


def _tensor(file: TorchFile, name: str, node: object, path: Path) -> torch.Tensor:
    try:
        return file.tensor(node)
    except TensorError as e:
        raise InputError(f"{path}: the tensor {_word(name)} {_short(e)}; it must be dense and real") from None
    except NotReadableError as e:
        raise InputError(
            f"{path}: not a complete checkpoint (the tensor {_word(name)}: {_short(e)}); copy it again"
        ) from None
    except OSError as e:
        raise InputError(f"{path}: cannot be read ({_short(e)})") from None


def _warn_of_strange_numbers(state: State, path: Path) -> None:
    strange = [name for name, x in state.items() if x.is_floating_point() and not _finite(x)]
    if strange:
        more = f" and {len(strange) - 1} more tensors" if len(strange) > 1 else ""
        log.warning("%s: the tensor %s%s: NaN or infinite numbers", path, _word(strange[0]), more)


def _finite(tensor: torch.Tensor) -> bool:
    return bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all())


def _bare(state: State) -> State:
    """Without the names that wrappers add, unless two names would become one."""
    if any(wrapper in name for name in state for wrapper in WRAPPERS):
        state = _renamed_all(state, {name: _without(name, WRAPPERS) for name in state})
    while all(name.startswith("module.") or name == AVERAGED for name in state) and state.keys() != {AVERAGED}:
        state = {name.removeprefix("module."): tensor for name, tensor in state.items() if name != AVERAGED}
    return state


def _without(name: str, parts: Sequence[str]) -> str:
    for part in parts:
        name = name.replace(part, "")
    return name


def _renamed_all(state: State, names: Mapping[str, str]) -> State:
    return {names[name]: tensor for name, tensor in state.items()} if len(set(names.values())) == len(state) else state


def _shown(place: KeyPath) -> str:
    return _word(".".join(place)) if place else "at its top"


def _kind(node: object) -> str:
    return f"call of {_word(node.path) or 'something'}" if isinstance(node, CallRecord) else type(node).__name__


def _word(text: str) -> str:
    """Text from a file, fit for a message of one line."""
    return text[:80] if text[:80].isprintable() else ascii(text[:80])


def _short(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return _word(" ".join(text.split())[:120]) or type(error).__name__


def fit(own: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> tuple[State, pd.DataFrame]:
    """A state's tensors under another's names, where they fit, and a table of what fits and what does not.

    A prefix such as ``model.`` or ``backbone.`` is taken off, or put on, where more tensors then agree in name and
    shape. A first kernel for another number of image channels is adapted: three channels to one by their sum (the same
    as feeding the grey image three times), one to several by an equal share each.

    Names of ``own`` that share a tensor are one row; any of them may be offered, and all of them get the tensor.

    Args:
        own: the state of the network to be served.
        other: the state that offers its tensors.

    Returns:
        The tensors that fit, by the names of ``own``; and one row per tensor: tensor, shape, shape_other, status
        (``same``, ``adapted``, ``other shape``, ``missing``: not offered, ``ambiguous``: names of one tensor offer
        different values, ``surplus``: not asked for).
    """
    other = _renamed(own, other)
    fitted: State = {}
    rows = []
    first_kernel = next((name for name, tensor in own.items() if tensor.ndim >= 3), None)
    for name, names in tensor_names(own).items():
        tensor, offers = own[name], [other[n] for n in names if n in other]
        offered = offers[0] if offers else None
        status = "missing"
        if offered is not None:
            status = "same" if offered.shape == tensor.shape else "other shape"
            taken = offered if status == "same" else None
            if not all(torch.equal(offered, another) for another in offers[1:]):
                status, taken = "ambiguous", None
            elif status != "same" and name == first_kernel:
                taken = _with_channels(offered, tensor.shape)
                status = "other shape" if taken is None else "adapted"
            if taken is not None:
                fitted.update((n, taken) for n in names)
        rows.append((name, _shape(tensor), _shape(offered), status))
    surplus = [name for name, names in tensor_names(other).items() if not own.keys() & names]
    rows += [(name, "", _shape(other[name]), "surplus") for name in surplus]
    return fitted, pd.DataFrame(rows, columns=["tensor", "shape", "shape_other", "status"])


class _Prefix(NamedTuple):
    """``off``: removed from the offered names that have it; ``on``: put before them."""

    off: str = ""
    on: str = ""

    def renamed(self, state: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
        bare = {x.removeprefix(self.off): tensor for x, tensor in state.items() if x.startswith(self.off)}
        rest = {x: tensor for x, tensor in state.items() if not x.startswith(self.off) and x not in bare}
        return {self.on + name: tensor for name, tensor in {**bare, **rest}.items()}


def _renamed(own: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """``other`` with the prefix changed so that most tensors agree in shape and name; of equals the first."""

    def agreement(state: Mapping[str, torch.Tensor]) -> tuple[int, int]:
        common = own.keys() & state.keys()
        return sum(own[name].shape == state[name].shape for name in common), len(common)

    off = Counter(_Prefix(off=p) for name in other for p, rest in _splits(name) if rest in own)
    on = Counter(_Prefix(on=p) for name in own for p, rest in _splits(name) if rest in other)
    likely = [prefix for votes in (off, on) for prefix, _ in votes.most_common(4)]
    return max([other, *(prefix.renamed(other) for prefix in likely)], key=agreement)


def _splits(name: str) -> Iterator[tuple[str, str]]:
    """A dotted name as prefix and rest, each way."""
    for place, letter in enumerate(name):
        if letter == ".":
            yield name[: place + 1], name[place + 1 :]


def _with_channels(kernel: torch.Tensor, shape: torch.Size) -> torch.Tensor | None:
    if kernel.ndim != len(shape) or kernel.shape[0] != shape[0] or kernel.shape[2:] != shape[2:]:
        return None
    if shape[1] == 1:
        return kernel.sum(1, keepdim=True)
    return kernel.expand(shape) / shape[1] if kernel.shape[1] == 1 else None


def same_but_channels(offered: torch.Tensor, own: torch.Tensor) -> bool:
    """Whether a tensor fits another as it is, or as a first kernel for another number of image channels."""
    return offered.shape == own.shape or (own.ndim >= 3 and _with_channels(offered, own.shape) is not None)


def _shape(tensor: torch.Tensor | None) -> str:
    return "" if tensor is None else "x".join(map(str, tensor.shape)) or "scalar"
