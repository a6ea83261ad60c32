"""A progress bar and Ctrl-C for builds, where TensorRT tells how far it is."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any

from edgeq.progress import Advance, progress_bar


class BuildProgress:
    """Draws the outermost phase of a build; phases inside it count as parts of its steps.

    Ctrl-C is not raised through TensorRT's C++ frames: it ends the build at the next step, and `finish` raises it.
    """

    def __init__(self, label: str) -> None:
        self._label = label
        self._stack = contextlib.ExitStack()
        # TensorRT may call from threads of its own, which know neither listener nor label.
        self._context = contextvars.copy_context()
        self._phase: str | None = None
        self._advance: Advance = lambda _steps: None
        self._error: BaseException | None = None

    def start(self, phase: str, parent: str | None, steps: int) -> None:
        """Notes the start of a phase."""
        if parent is None and self._phase is None:
            self._phase = phase
            with self._kept():
                bar = progress_bar(steps, self._label, unit="%")
                self._advance = self._context.run(self._stack.enter_context, bar)

    def step(self, phase: str) -> bool:
        """Notes a step, and returns whether the build is to go on."""
        with self._kept():
            if phase == self._phase:
                self._advance(1)
        return self._error is None

    def end(self, phase: str) -> None:
        """Notes the end of a phase."""
        if phase == self._phase:
            self._phase = None
            with self._kept():
                self._stack.close()

    def close(self) -> None:
        """Takes the bar away, however the build ended."""
        self._stack.close()

    def finish(self) -> None:
        """Raises what came up during the build."""
        if self._error is not None:
            raise self._error

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            self._error = error


@contextlib.contextmanager
def make_progress_monitor(trt: Any, config: Any, label: str) -> Iterator[BuildProgress]:
    """Yields the progress of a build, which stays empty where TensorRT has no monitor.

    Args:
        trt: TensorRT's module.
        config: The build's configuration.
        label: What is being built.
    """
    progress = BuildProgress(label)
    if hasattr(trt, "IProgressMonitor"):

        class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.IProgressMonitor.__init__(self)

            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                progress.start(phase_name, parent_phase, num_steps)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return progress.step(phase_name)

            def phase_finish(self, phase_name: str) -> None:
                progress.end(phase_name)

        monitor = Monitor()  # the configuration does not keep it alive, this frame does
        config.progress_monitor = monitor
    try:
        yield progress
    finally:
        progress.close()
