"""Pickles read as data, by a stack machine that has no instruction to import or to call.

Python's unpickler imports what a pickle names and calls it, so that opening a file can run any program. Here a name
stays a name (`Global`) and a call stays a record of what would be called with what (`CallRecord`): nothing outside this
module is reached, whatever the file asks for. The format is that of `pickletools`, whose parser splits the opcodes.
"""

from __future__ import annotations

import logging
import pickletools
from dataclasses import dataclass, field
from typing import IO, NamedTuple

log = logging.getLogger(__name__)

# A checkpoint has about 40 opcodes for each tensor; this many take some seconds and at most about 1 GB.
MOST_OPCODES = 5_000_000

CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class NotReadableError(ValueError):
    """The file is damaged, or no checkpoint at all."""


class OtherFormatError(NotReadableError):
    """The file is whole, but of a kind that is not read; the message says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle would import, e.g. ``torch.FloatStorage``."""

    path: str


@dataclass(eq=False, slots=True)
class CallRecord:
    """What a pickle would make: by calling ``maker`` with ``arguments``, then setting ``state`` and ``items``."""

    maker: object
    arguments: object
    state: object = None
    items: dict[object, object] = field(default_factory=dict)

    @property
    def path(self) -> str:
        """Name of the maker; empty where that is itself the result of a call."""
        return self.maker.path if isinstance(self.maker, Global) else ""


@dataclass(eq=False, slots=True)
class Persistent:
    """A reference to something outside the pickle; torch keeps the numbers of its tensors so."""

    key: object


class Pickle(NamedTuple):
    """What a pickle holds.

    ``tree``: its object, of plain containers, `Global`, `CallRecord` and `Persistent`. ``outside``: the references in
    it, in their order. ``names``: what it would import.
    """

    tree: object
    outside: list[Persistent]
    names: set[str]


def read_pickle(file: IO[bytes], size: int) -> Pickle:
    """The pickle at a file's position.

    Args:
        file: at the pickle's first byte; afterwards behind its last.
        size: of the whole file, bytes.

    Raises:
        NotReadableError: no whole pickle.
    """
    try:
        return _run(_Bounded(file, size))
    except NotReadableError:
        raise
    except (ValueError, TypeError, IndexError, KeyError) as e:
        log.debug("not a whole pickle: %s: %s", type(e).__name__, e)  # in terms of opcodes and stacks
        raise NotReadableError("it holds no whole pickle, as torch.save writes them") from None


class _Bounded:
    """A file for `pickletools.genops` that allocates no more than the file holds, whatever length an opcode claims."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self.file, self.size = file, size

    def read(self, count: int) -> bytes:
        return self.file.read(count if count < 2**16 else min(count, self.size - self.file.tell()))

    def readline(self) -> bytes:
        return self.file.readline()


def _run(file: _Bounded) -> Pickle:
    stack: list[object] = []
    marks: list[int] = []
    memo: dict[object, object] = {}
    outside: list[Persistent] = []
    names: set[str] = set()

    def named(path: str) -> Global:
        names.add(path)
        return Global(path)

    def behind_mark() -> list[object]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def persistent(key: object) -> Persistent:
        outside.append(Persistent(key))
        return outside[-1]

    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):  # type: ignore[arg-type]
        if count == MOST_OPCODES:
            raise OtherFormatError(
                f"a pickle of more than {MOST_OPCODES:,} instructions, which no state needs; save only the state_dict()"
            )
        name = opcode.name
        match name:
            case "BINPUT" | "LONG_BINPUT" | "PUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET" | "GET":
                stack.append(memo[argument])
            case "MARK":
                marks.append(len(stack))
            case _ if name in CONSTANTS:
                stack.append(CONSTANTS[name])
            case _ if name in TUPLES:
                items = [stack.pop() for _ in range(TUPLES[name])]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                stack.append(tuple(behind_mark()))
            case "EMPTY_LIST" | "EMPTY_SET":  # a set is read as a list: no item is hashed or compared
                stack.append([])
            case "LIST" | "FROZENSET":
                stack.append(behind_mark())
            case "EMPTY_DICT":
                stack.append({})
            case "DICT":
                stack.append(_set({}, behind_mark()))
            case "SETITEM":
                items = [stack.pop(), stack.pop()]
                _set(stack[-1], items[::-1])
            case "SETITEMS":
                items = behind_mark()
                _set(stack[-1], items)
            case "APPEND":
                items = [stack.pop()]
                _add(stack[-1], items)
            case "APPENDS" | "ADDITEMS":
                items = behind_mark()
                _add(stack[-1], items)
            case "GLOBAL":
                stack.append(named(str(argument).replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(named(f"{module}.{attribute}" if isinstance(module, str) else "a computed name"))
            case "REDUCE" | "NEWOBJ":
                arguments = stack.pop()
                stack.append(CallRecord(stack.pop(), arguments))
            case "NEWOBJ_EX":
                arguments = (stack.pop(), stack.pop())[::-1]
                stack.append(CallRecord(stack.pop(), arguments))
            case "INST":
                stack.append(CallRecord(named(str(argument).replace(" ", ".", 1)), tuple(behind_mark())))
            case "OBJ":
                maker, *rest = behind_mark()
                stack.append(CallRecord(maker, tuple(rest)))
            case "EXT1" | "EXT2" | "EXT4":
                stack.append(named(f"copyreg.extension{argument}"))
            case "BUILD":
                state, made = stack.pop(), stack[-1]
                if isinstance(made, CallRecord):  # a plain container or name has nothing that a state could set
                    made.state = state
            case "PERSID":
                stack.append(persistent(argument))
            case "BINPERSID":
                stack.append(persistent(stack.pop()))
            case "POP":
                stack.pop() if not marks or marks[-1] < len(stack) else marks.pop()
            case "POP_MARK":
                behind_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                return Pickle(stack.pop(), outside, names)
            case "NEXT_BUFFER" | "READONLY_BUFFER":
                raise OtherFormatError("its numbers are in buffers outside of the file; save it with torch.save")
            case _:  # numbers, strings and bytes of every length
                stack.append(argument)
    raise NotReadableError("it does not end")


def _set(target: object, items: list[object]) -> object:
    mapping = target.items if isinstance(target, CallRecord) else target
    if not isinstance(mapping, dict) or len(items) % 2:
        raise NotReadableError("its pickle sets items of what is no dict")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Of other keys than these only the identity counts: to hash a deeply nested one can exhaust the C stack.
        mapping[key if key is None or isinstance(key, str | bytes | int | float) else CallRecord(key, ())] = value
    return target


def _add(target: object, items: list[object]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif not isinstance(target, CallRecord):  # a list of a class of its own: holds no state by name
        raise NotReadableError("its pickle appends to what is no list")
