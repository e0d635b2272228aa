"""How a program ends: one line on standard error and an exit status, whatever went wrong."""

from __future__ import annotations

import difflib
import errno
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Mapping

from prrmse.errors import InputError, missing_extra

# Exit statuses beside 0; 1 is left to commands that compare.
FIX, DEFECT, INTERRUPTED = 2, 3, 130
# Shows the traceback of a defect instead of writing it to a file.
DEBUG = "PRRMSE_DEBUG"
LONGEST_LINE = 1000

ADVICE = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "free some space and run again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "check its owner and permissions"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (ulimit -n)"),
    errno.EIO: "check the disk",
}


def exit_status(act: Callable[[], int | None], names: Mapping[str, str]) -> int:
    """Run; the exit status, after one line on standard error where something went wrong.

    Args:
        act: what to run; its own status, None for 0.
        names: of settings in errors, see `InputError.message_for`.

    Returns:
        `FIX` where the user, the disk or the memory is at fault; `DEFECT` where this program is.
    """
    try:
        return act() or 0
    except BrokenPipeError:  # the reader, e.g. head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return _report("interrupted", INTERRUPTED)
    except Exception as e:
        line = _fault_of_others(e)
        if line is not None:
            return _report(InputError(line).message_for(names), FIX)
        return _report(_defect(e), DEFECT)


def _report(line: str, status: int) -> int:
    coloured = sys.stderr.isatty() and not os.environ.get("NO_COLOR")  # no-color.org
    mark = "\033[31merror:\033[0m" if coloured else "error:"
    print(f"{mark} {one_line(line)}", file=sys.stderr)
    return status


def one_line(text: str) -> str:
    """Text as one line of bounded length; line breaks and what cannot be printed are escaped."""
    shown = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text.strip())
    return shown if len(shown) <= LONGEST_LINE else f"{shown[: LONGEST_LINE // 2]} ... {shown[-LONGEST_LINE // 2 :]}"


def _fault_of_others(error: Exception) -> str | None:
    """What to tell the user to put right; None for a defect."""
    if isinstance(error, InputError):
        return str(error.args[0])
    if isinstance(error, ImportError):
        return missing_extra(error)
    if is_memory(error):
        return (
            "out of memory; close other programs, choose a smaller <evaluation_batch_size> or <memory_mb>, or make the "
            "images or the network smaller"
        )
    number = _errno(error)
    name = getattr(error, "filename", None)
    if number in ADVICE or (number is not None and name is not None):
        return f"{name or 'a file'}: {os.strerror(number)}; {ADVICE.get(number, 'check the path')}"
    return None


def is_memory(error: Exception) -> bool:
    """Whether it says that memory ran out, in whichever words."""
    text = str(error)
    said = any(x in text for x in ("not enough memory", "Cannot allocate memory", "std::bad_alloc", "out of memory"))
    return isinstance(error, MemoryError) or _errno(error) == errno.ENOMEM or (isinstance(error, RuntimeError) and said)


def _errno(error: Exception) -> int | None:
    """The system's number for the error; libraries in Rust, as that of safetensors, say it in words only."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else None


def _defect(error: Exception) -> str:
    where = f"set {DEBUG}=1 to see where"
    if os.environ.get(DEBUG):
        traceback.print_exception(error)
        where = "its traceback is above"
    else:
        try:
            handle, path = tempfile.mkstemp(prefix="prrmse-", suffix=".txt")
            with open(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{sys.argv}\n")
                traceback.print_exception(error, file=file)
            where = f"its traceback is in {path}"
        except OSError:
            pass
    kind = f"{type(error).__name__}: {error}"
    return f"a defect of prrmse, not yours: {one_line(kind)[:300]}; {where}; please report both (SECURITY.md says how)"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """What was probably meant, to be appended to a message; empty if nothing is close."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""
