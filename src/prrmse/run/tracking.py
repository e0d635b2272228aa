"""Points of training curves, sent to a tracker of the user's choice while a job trains.

Which tracker decides no result, so it is no parameter of any rule: Snakemake hands it to its jobs as an environment
variable. A thread of its own sends, so that no training waits for a tracker; what fails there is one warning.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import threading
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, Protocol

from prrmse.config.checks import check_tracking
from prrmse.config.params import plain
from prrmse.files import own_folder

log = logging.getLogger(__name__)

# Names the environment variable.
TRACKING = "PRRMSE_TRACKING"
# How long a job that has ended waits for the last points to be sent.
LAST_SECONDS = 60.0
PROJECT = "prrmse"


class Run(NamedTuple):
    """One training, as a tracker is told of it."""

    group: str  # the job's table, without ``results/`` and ending
    title: str
    parameters: dict[str, Any]


class Tracker(Protocol):
    """Where the points of one run go; made when there is the first."""

    def send(self, step: int, values: dict[str, float]) -> None: ...

    def close(self, *, done: bool) -> None: ...


class TensorBoard:
    """Event files in ``runs/``; what an earlier attempt at the same training left there is hidden."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = Path("runs", run.group, re.sub(r"[^\w.=-]+", "-", run.title))
        self._writer: Any = SummaryWriter(str(folder), purge_step=0, flush_secs=10)
        self._writer.add_text("parameters", json.dumps(run.parameters))

    def send(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, *, done: bool) -> None:  # noqa: ARG002
        self._writer.close()


class MLflow:
    """A run of MLflow, which takes where from ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME``."""

    def __init__(self, run: Run) -> None:
        import mlflow

        self._mlflow: Any = mlflow
        with _alone("mlflow"):  # several jobs that start at once would set up its store at once
            mlflow.start_run(run_name=run.title, tags={"group": run.group})
        mlflow.log_params(run.parameters)

    def send(self, step: int, values: dict[str, float]) -> None:
        self._mlflow.log_metrics(values, step=step)

    def close(self, *, done: bool) -> None:
        self._mlflow.end_run("FINISHED" if done else "FAILED")


class WandB:
    """A run of Weights & Biases, which takes where from its own ``WANDB_...``."""

    def __init__(self, run: Run) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=run.group,
            name=run.title,
            config=run.parameters,
            reinit="create_new",
        )

    def send(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self, *, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)


TRACKERS: dict[str, Callable[[Run], Tracker]] = {"mlflow": MLflow, "tensorboard": TensorBoard, "wandb": WandB}


@contextmanager
def tracked(arguments: Namespace) -> Iterator[None]:
    """Context in which the curves of a job's trainings go to the tracker that `TRACKING` names, if any.

    Args:
        arguments: of the job.

    Raises:
        InputError: the tracker's package is not installed here.
    """
    name = os.environ.get(TRACKING, "none")
    check_tracking(name)
    if name == "none":
        yield
        return
    from prrmse.learning.progress import listening  # imports torch

    points: SimpleQueue[Any] = SimpleQueue()
    sender = threading.Thread(target=_send, args=(name, arguments, points), daemon=True)
    sender.start()
    done = False
    try:
        with listening(lambda title, point: points.put((title, point))):
            yield
        done = True
    finally:
        points.put(done)
        sender.join(LAST_SECONDS)
        if sender.is_alive():
            log.warning("%s: has not taken the last points in %.0f s; going on without", name, LAST_SECONDS)


def _send(name: str, arguments: Namespace, points: SimpleQueue[Any]) -> None:
    """Send until the end is told: whether the job was done."""
    tracker, last = None, ""
    try:
        while not isinstance(found := points.get(), bool):
            title, point = found
            if tracker and title != last:
                tracker.close(done=True)
                tracker = None
            if tracker is None:
                tracker, last = TRACKERS[name](_run(arguments, title)), title
            values = {key: value for key, value in point.items() if key != "step" and value is not None}
            tracker.send(int(point["step"]), values)
        if tracker:
            tracker.close(done=found)
    except Exception as e:
        said = " ".join(str(e).split())[:300]
        log.warning("%s: no more points are sent (%s: %s)", name, type(e).__name__, said)


def _run(arguments: Namespace, title: str) -> Run:
    sections = plain(arguments.params)
    found = {
        f"{section}.{key}" if key else section: value
        for section, values in sections.items()
        for key, value in (values.items() if isinstance(values, dict) else [("", values)])
    }
    texts = {key: value if isinstance(value, int | float | str) else json.dumps(value) for key, value in found.items()}
    names = {
        key: value for key, value in vars(arguments).items() if key in ("net", "model", "target", "source", "seed")
    }
    group = Path(arguments.table).with_suffix("").as_posix().removeprefix("results/")
    return Run(group, title, {**names, **texts})


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Context that one process of this user on this machine is in at a time."""
    folder = own_folder()
    with open(folder / f"{name}.lock", "w") if folder else contextlib.nullcontext() as lock:
        if lock is not None:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
