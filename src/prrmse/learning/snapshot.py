"""The state of an unfinished training on disk, and the request to stop."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import logging
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn

from prrmse.data.slices import Slices
from prrmse.files import atomic, digest_of, remove_partials, sha256_of
from prrmse.learning.optimiser import Optimiser
from prrmse.nets.layers import state_digest

log = logging.getLogger(__name__)

# Bytes of the SHA-256 with which the file begins.
DIGEST = 32


class Snapshot:
    """The state of an unfinished training, saved now and then, complete or not at all.

    The file is no declared output of the workflow, so a failed job leaves it in place.

    Args:
        path: of the file; None to save nothing.
        identity: tells the training from any other (`identity_of`).
        every_seconds: between two savings.
    """

    def __init__(self, path: Path | None, identity: Callable[[], str], every_seconds: float) -> None:
        self.path, self.every = path, every_seconds
        self.identity = "" if path is None else identity()
        self._last = time.monotonic()

    def restore(self, network: nn.Module, optimiser: Optimiser) -> int:
        """Load the state if there is one of this very training; the number of steps already done."""
        if self.path is None or not self.path.is_file():
            return 0
        content = self.path.read_bytes()
        if _digest(content[DIGEST:]) != content[:DIGEST]:  # torch checks nothing
            log.warning("%s: not as it was written; starting again", self.path)
            return 0
        # Before torch.load, which fails where the device is not there that it was written on.
        if content[DIGEST : DIGEST + len(self.identity)] != self.identity.encode():
            log.warning("%s: of other data or settings; starting again", self.path)
            return 0
        state = torch.load(io.BytesIO(content[DIGEST + len(self.identity) :]), weights_only=True)
        network.load_state_dict(state["network"])
        optimiser.adam.load_state_dict(state["optimiser"])
        set_random_state(state["random"])
        log.info("resuming after step %d from %s", state["step"], self.path)
        return int(state["step"])

    def save(self, step: int, network: nn.Module, optimiser: Optimiser, *, now: bool = False) -> None:
        """Save if the interval has passed, or ``now``."""
        if self.path is None or not (now or time.monotonic() - self._last >= self.every):
            return
        state = {"step": step, "random": random_state()}
        # Through memory: where a disk is full, torch's own writer says everything but that.
        content = io.BytesIO()
        content.write(self.identity.encode())
        torch.save({**state, "network": network.state_dict(), "optimiser": optimiser.adam.state_dict()}, content)
        with atomic(self.path) as partial, open(partial, "wb") as file:
            file.write(_digest(content.getbuffer()))
            file.write(content.getbuffer())
        self._last = time.monotonic()


def _digest(content: bytes | memoryview) -> bytes:
    return hashlib.sha256(content).digest()


def snapshot_of(result: Path) -> Path:
    """Where the state of the unfinished training is saved whose result will be ``result``."""
    return result.parent / f".{result.stem}.resume"


def discard(snapshot: Path) -> None:
    """Delete a snapshot, and what a killed process left while it wrote one: to be called once the result is on disk."""
    snapshot.unlink(missing_ok=True)
    remove_partials([snapshot])


class StopRequest:
    """SIGTERM, which a cluster sends before it kills (time limit, preemption, scancel): end after the present step.

    A context; after it SIGTERM is with whoever had it.

    Args:
        saved: whether the state is saved before the process ends.
    """

    def __init__(self, *, saved: bool) -> None:
        self.made, self._saved = False, saved
        self._before: Any = None

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python allows no handler
            self._before = signal.signal(signal.SIGTERM, self._make)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _make(self, *_: object) -> None:
        self.made = True

    def obey(self) -> None:
        """End the process if it was asked to."""
        if self.made:
            state = "the state is saved; run again to go on from here" if self._saved else "nothing is saved"
            log.warning("asked to stop (SIGTERM): %s", state)
            raise SystemExit(128 + signal.SIGTERM)


def random_state() -> list[torch.Tensor]:
    """Of torch's generators: the CPU's, then that of the GPU, if one is in use."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [])]


def set_random_state(state: list[torch.Tensor]) -> None:
    """Go on with the draws where `random_state` was read."""
    torch.set_rng_state(state[0].cpu())
    if len(state) > 1:
        torch.cuda.set_rng_state(state[1].cpu())


def program_digest() -> str:
    """A hash of this program's trainings and networks, as files."""
    own = Path(__file__).parents[1]
    return digest_of(own, [path for part in ("learning", "nets") for path in (own / part).glob("*.py")])


def code_of(network: nn.Module) -> list[str]:
    """Hashes of the files in which the classes of a network's modules, and those they derive from, are written.

    What else those files import is not looked at; torch is told by its version.
    """
    classes = {of for module in network.modules() for of in type(module).__mro__}
    files = set()
    for made in classes:
        if made.__module__.partition(".")[0] != "torch":
            with suppress(OSError, TypeError):  # written in no file
                files.add(inspect.getfile(made))
    return sorted(sha256_of(Path(file)) for file in files if Path(file).is_file())


def identity_of(network: nn.Module, slices: Slices, rest: list[object]) -> str:
    """A hash of all that a training's result depends on: also this program's training and networks, torch's version.

    Args:
        network: at its start, before it is moved to a device.
        slices: the training slices.
        rest: anything JSON-able: settings, seed, what is frozen, how it is computed.
    """
    of_network = repr(network), code_of(network), state_digest(network.state_dict())
    what = [program_digest(), torch.__version__, *of_network, slices.fingerprint(), rest]
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()
