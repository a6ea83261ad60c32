"""What a result was obtained with: engine, settings and machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edgeq.boundary import Count, convert
from edgeq.errors import EdgeqError, InputError
from edgeq.results.serialization import INLINE
from edgeq.wording import counted


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """How much of a TFLite file XNNPACK runs; other operators are an order of magnitude slower.

    Attributes:
        operators: All operators.
        delegated: Operators that XNNPACK runs.
        partitions: Number of parts that XNNPACK runs in one piece.
    """

    operators: Count = 0
    delegated: Count = 0
    partitions: Count = 0


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What decides speed and scores; `None` or empty means that the session or an older result does not say.

    Attributes:
        engine: Engine with its version.
        threads: CPU threads of the engine.
        compute_precision: What the engine computed float layers in: `f32`, `bf16` or `f16`.
        xnnpack: How much of a TFLite file XNNPACK runs.
        further: What else an engine reports (`gpu`, `cuda_graph`, ...), as JSON values.
        cpu: Name of the CPU.
        cpu_features: Its instruction sets that matter for INT8.
        usable_cpus: CPUs that the process may use.
        architecture: As `uname -m` says it.
        system: Operating system with its version.
        board: Name of the board.
        python: Version of Python.
        emulated: Whether the CPU was emulated, so that times would describe the host.
    """

    engine: str = ""
    threads: Count | None = None
    compute_precision: str = ""
    xnnpack: Coverage | None = field(default=None, metadata={"omit_empty": True})
    further: Mapping[str, Any] = field(default_factory=dict, metadata=INLINE)
    cpu: str | None = None
    cpu_features: tuple[str, ...] = ()
    usable_cpus: Count | None = None
    architecture: str | None = None
    system: str | None = None
    board: str | None = None
    python: str | None = None
    emulated: bool = False

    @property
    def machine(self) -> str:
        """Board or CPU, system and Python, as far as they are known."""
        python = f"Python {self.python}" if self.python else None
        return ", ".join(fact for fact in (self.board or self.cpu, self.system, python) if fact)

    @property
    def setup(self) -> str:
        """Engine, its threads and CPU, as far as they are known."""
        threads = counted(self.threads, "thread") if self.threads else None
        return ", ".join(fact for fact in (self.engine, threads, self.cpu) if fact)


_FURTHER = "further"
_KEYS = frozenset(each.name for each in dataclasses.fields(Environment)) - {_FURTHER}


def nested(environment: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an environment as JSON has it with what only one engine reports under `further`."""
    known = {key: value for key, value in environment.items() if key in _KEYS}
    return known | {_FURTHER: {key: value for key, value in environment.items() if key not in _KEYS}}


def parse_environment(
    environment: Mapping[str, Any], *, source: object, error: type[EdgeqError] = InputError
) -> Environment:
    """Returns what a session reports about itself, see `edgeq.runtimes.Session.environment`.

    Args:
        environment: Its JSON values.
        source: Where they come from, for the error.
        error: Class of the error.

    Raises:
        EdgeqError: a value is of another type.
    """
    kind = "what a session reports about itself"
    return convert(nested(environment), Environment, source=source, kind=kind, place="environment", error=error)
