"""The JSON objects that a runner is driven by, one a line, and how a process answers them."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from collections.abc import Callable, Mapping
from typing import IO, Any, NoReturn

from edgeq.boundary import parse_json
from edgeq.errors import EdgeqError, InputError

_EXIT_CUT_OFF = 130
_MAX_COMMAND_BYTES = 1 << 20


def serve(answer: Callable[[bytes], Mapping[str, Any]], is_done: Callable[[], bool]) -> NoReturn:
    """Answers each line of stdin by one on stdout until done, and ends the process.

    The end of stdin ends it at once, whatever it is doing, and so does an answer that nobody can read any more.

    Args:
        answer: A line -> what is answered, as JSON values.
        is_done: Whether the answer was the last one.
    """
    answers = _claim_stdout()
    commands: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_commands, args=(commands,), daemon=True).start()
    exit_code = 0
    try:
        while not is_done():
            answers.write(json.dumps(answer(commands.get())).encode() + b"\n")
            answers.flush()
    except BrokenPipeError:
        exit_code = _EXIT_CUT_OFF
    # No orderly shutdown: the reading thread holds stdin's lock, and some engines hang in their destructors.
    os._exit(exit_code)


def answer_by(commands: Mapping[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]], line: bytes) -> dict[str, Any]:
    """Returns the answer to a line: what the command that it names returns, or an error that is the user's to act on.

    Args:
        commands: Name -> function of the whole command.
        line: The command.
    """
    try:
        command = parse_command(line)
        name = field(command, "command", str)
        if name not in commands:
            raise InputError(f"unknown command {name!r}; wanted one of {', '.join(commands)}")
        return {"ok": True, **commands[name](command)}
    except EdgeqError as error:
        return {"ok": False, "error": type(error).__name__, "message": str(error)}


def parse_command(line: bytes) -> dict[str, Any]:
    """Returns the command on a line.

    Raises:
        InputError: it is no JSON object.
    """
    return parse_json(line, dict[str, Any], source="a command", kind="a JSON object")


def field(command: Mapping[str, Any], name: str, *kinds: type) -> Any:
    """Returns a field of a command.

    Raises:
        InputError: it is of another type than one of `kinds`.
    """
    value = command.get(name)
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise InputError(f"field {name!r} of a command is {value!r}, wanted {wanted}")
    return value


def _read_commands(commands: queue.SimpleQueue[bytes]) -> None:
    """Feeds the queue; ends the process at the end of stdin, whatever it is doing."""
    while line := sys.stdin.buffer.readline(_MAX_COMMAND_BYTES):
        commands.put(line)
    os._exit(_EXIT_CUT_OFF)


def _claim_stdout() -> IO[bytes]:
    """Returns the real stdout for answers only, and sends everything else that is printed, by C code too, to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers
