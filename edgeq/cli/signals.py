"""Signals end a command as Ctrl-C does, whatever the engines do to the process."""

from __future__ import annotations

import _thread
import contextlib
import ctypes
import functools
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

_AGAIN_S = 0.02
_SA_ONSTACK = 0x08000000
_ARCHITECTURES = ("x86_64", "aarch64")


class _Action(ctypes.Structure):
    """`struct sigaction` of C libraries on Linux with 64 bits."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ulong * 16),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Lets SIGTERM and SIGHUP end a command as Ctrl-C does: what is done is kept, and its processes end with it.

    A signal that arrives while Python clears an object away is an exception that nothing can catch; it comes again.
    """
    plain = sys.unraisablehook
    sys.unraisablehook = functools.partial(_interrupt_again, plain)
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    changed = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]  # `nohup` ignores it
    for number in changed:
        signal.signal(number, signal.default_int_handler)
    for number in (signal.SIGINT, *changed):
        _take_on_ordinary_stack(number)
    try:
        yield
    finally:
        sys.unraisablehook = plain
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def _take_on_ordinary_stack(number: int) -> None:
    """Lets a signal be handled on the stack of the thread, not on a stack of its own.

    Python asks for the latter if there is one. OpenVINO sets one for the thread that compiles a model and gives its
    memory back with the model, which may leave the thread with a stack that is gone: the next signal is then a SIGSEGV.
    """
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        return
    sigaction, action = ctypes.CDLL(None).sigaction, _Action()
    if sigaction(number, None, ctypes.byref(action)) == 0:
        action.flags &= ~_SA_ONSTACK
        sigaction(number, ctypes.byref(action), None)


def _interrupt_again(plain: Callable[[sys.UnraisableHookArgs], Any], ignored: sys.UnraisableHookArgs) -> None:
    """Interrupts the main thread once more, behind what has swallowed the first time; all else is `plain`'s."""
    if not issubclass(ignored.exc_type, KeyboardInterrupt):
        plain(ignored)
        return
    later = threading.Timer(_AGAIN_S, _interrupt_main)
    later.daemon = True
    later.start()


def _interrupt_main() -> None:
    """Interrupts the main thread; where signals can be sent to threads, also in the midst of a call that waits."""
    if hasattr(signal, "pthread_kill"):
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
    else:
        _thread.interrupt_main()
