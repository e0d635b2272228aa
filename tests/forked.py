"""Programs started by a fork; snakemake from a process which has imported it, since that takes half of its start."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tiny import Folder


class Run:
    """A command at work in a folder, in a session of its own.

    Args:
        folder: the folder.
        command: the program and its arguments.
        log: the file for its streams.
    """

    def __init__(self, folder: Folder, command: tuple[str, ...], log: Path) -> None:
        environment = folder.environment
        self.status: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.setsid()
                os.chdir(folder.path)
                out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
                for number, stream in enumerate((os.open(os.devnull, os.O_RDONLY), out, out)):
                    os.dup2(stream, number)
                # The process may have others, e.g. those with which pytest captures what is printed.
                sys.stdout, sys.stderr = (os.fdopen(number, "w", buffering=1, closefd=False) for number in (1, 2))
                signal.signal(signal.SIGINT, signal.default_int_handler)
                os.environ.clear()
                os.environ.update(environment)
                self.become(command)
            except SystemExit as e:
                status = e.code if isinstance(e.code, int) else int(e.code is not None)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)

    def become(self, command: tuple[str, ...]) -> None:
        """Be the command; comes back if it ends without a word on its status."""
        os.execvp(command[0], command)

    def wait(self, seconds: float = 1e9) -> int | None:
        """The exit status, or the negative number of a signal; None if it has not ended by then."""
        deadline = time.monotonic() + seconds
        while self.status is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            if ended:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() >= deadline:
                break
            else:
                time.sleep(0.02)
        return self.status


class Snakemake(Run):
    """The real snakemake; our own package is imported anew, from the folder."""

    def __init__(self, folder: Folder, command: tuple[str, ...], log: Path) -> None:
        import snakemake.cli  # not by those who start other programs: it takes seconds
        import snakemake.workflow  # noqa: F401

        super().__init__(folder, command, log)

    def become(self, command: tuple[str, ...]) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] == "prrmse"]:
            del sys.modules[name]
        sys.path = [path for path in sys.path if not (Path(path) / "prrmse").is_dir()]
        sys.argv = list(command)
        vars(sys.modules["snakemake.shell"])["STDOUT"] = sys.stdout  # what jobs print; it was that of the import
        sys.modules["snakemake.cli"].main()


def started(folder: Folder, command: tuple[str, ...], log: Path) -> Run:
    """The command, at work."""
    return (Snakemake if command[0] == "snakemake" else Run)(folder, command, log)
