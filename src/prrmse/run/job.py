"""What the scripts of the workflow share: arguments, logging, one-line errors, and records of what they made."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from prrmse.config.params import PARAMETERS, parse_sections, plain
from prrmse.errors import InputError
from prrmse.failures import exit_status
from prrmse.files import remove_partials, sha256_of, written
from prrmse.log import show_messages
from prrmse.run import hashes, kept, locks
from prrmse.run.code import SOURCES, code_digest, sources_digest
from prrmse.run.records import is_unfinished
from prrmse.run.tracking import tracked

log = logging.getLogger(__name__)

# To be called once the results of a job are safe.
Afterwards = Callable[[], None]


def run(
    main: Callable[[argparse.Namespace], Afterwards | None],
    *names: str,
    optional: Sequence[str] = (),
    lists: Sequence[str] = (),
    keep: bool = False,
) -> None:
    """Parse the command line, run, report errors in one line.

    Files that are read are checked against their recorded hashes first (`prrmse.run.hashes`); hashes of those that were
    written are recorded afterwards. Exit status: 0 done, otherwise as `exit_status`.

    Args:
        main: what to run; it gets the arguments as attributes. What it returns is called when its results are recorded.
        names: arguments of one value, all required. ``--params`` is what `prrmse.config.params.section` wrote.
        optional: arguments of one value or none (``--name`` alone), which is None.
        lists: arguments of several values. ``@FILE`` stands for the lines of a file, since the arguments of a program
            are limited in length.
        keep: whether what it makes is kept for the next time (`prrmse.run.kept`): for jobs that take long and whose
            result depends on nothing but their arguments and the files among these. Their process is first set up for
            the ``compute`` of their parameters (`prrmse.learning.device.set_up_process`).
    """
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__, fromfile_prefix_chars="@")
    parser.add_argument("--code", help="digest of the program with which Snakemake planned this job")
    for name in names:
        parser.add_argument(f"--{name}", required=True, type=parse_sections if name == "params" else str)
    for name in optional:
        parser.add_argument(f"--{name}", required=True, nargs="?")
    for name in lists:
        parser.add_argument(f"--{name}", required=True, nargs="*")
    arguments = parser.parse_args()
    show_messages()
    if status := exit_status(lambda: _run(main, arguments, keep), PARAMETERS):
        raise SystemExit(status)


def _run(main: Callable[[argparse.Namespace], Afterwards | None], arguments: argparse.Namespace, keep: bool) -> None:
    if arguments.code:  # started by a run
        locks.hold_job()
    read = _files_of(arguments)
    checked = hashes.check(read)
    imported = _imported()
    if not _is_planned(arguments.code):
        raise InputError("the program was changed since this run was started; run again")
    if keep:
        from prrmse.learning.device import set_up_process  # imports torch

        compute = arguments.params["compute"]
        set_up_process(compute.device, compute.threads)
    # After the GPU is taken, since which device and precision are chosen is part of the key.
    key = _key(arguments, read, checked) if keep and _can_keep(arguments) else None
    if key and (files := kept.restore(key)) is not None:
        from prrmse.learning.snapshot import discard, snapshot_of

        log.info("taken from what an earlier run kept")
        hashes.record(files)
        remove_partials(files)
        for file in files:  # if it was killed before it could do so itself
            discard(snapshot_of(file))
        return
    with written() as made, tracked(arguments) if keep else contextlib.nullcontext():
        afterwards = main(arguments)
    results = [path for path in made if path.is_file() and not path.name.startswith(".")]
    if _imported() - imported and not _is_planned(arguments.code):
        raise InputError("the program was changed while this job ran; run again")
    digests = {path: sha256_of(path) for path in results}
    if key:  # first, so that whatever is recorded is kept
        kept.keep(key, digests)
    hashes.record(digests)
    remove_partials(made)
    if afterwards:
        afterwards()


def _files_of(arguments: argparse.Namespace) -> list[Path]:
    """The files that are named on the command line, and those in the folders that are: what a job may read."""
    values = [value for value in vars(arguments).values() if isinstance(value, str | list)]
    names = [name for value in values for name in (value if isinstance(value, list) else [value])]
    found = [part for name in names for part in ([Path(name)] if not Path(name).is_dir() else Path(name).iterdir())]
    return sorted(path for path in found if path.is_file() and not is_unfinished(Path(), path.as_posix()))


def _can_keep(arguments: argparse.Namespace) -> bool:
    """Whether this is a job of a run, and a key can stand for all the code of its network."""
    networks = [value for name, value in arguments.params.items() if name.startswith("nets.")]
    is_of_run = bool(arguments.code) and Path(".snakemake").is_dir()
    return is_of_run and all(kept.is_told_by_version(network) for network in networks)


def _key(arguments: argparse.Namespace, read: list[Path], checked: Mapping[Path, str]) -> str:
    from prrmse.learning.device import describe

    script = "/".join(Path(sys.argv[0]).parts[-3:])  # wherever the workflow is
    what = vars(arguments) | {"params": plain(arguments.params), "script": script}
    digests = {path: checked.get(path) or sha256_of(path) for path in read}
    return kept.key_of(what | {"computed": describe(arguments.params["compute"])}, digests)


def _is_planned(code: str | None) -> bool:
    """Whether the program is the one with which Snakemake planned this job."""
    if code is None or os.environ.get(SOURCES) == sources_digest(Path(sys.argv[0]).parent):
        return True
    return code.removeprefix("code ") == code_digest(sys.argv[0])


def _imported() -> set[str]:
    return {name for name in sys.modules if name.split(".")[0] == "prrmse"}
