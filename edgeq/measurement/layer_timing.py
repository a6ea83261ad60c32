"""What each layer takes, by the engine's own profiler.

`time_layers` is called by the runner of a benchmark after the model was timed and its memory was read: the engine opens
the file once more, because an engine that profiles is slower.
"""

from __future__ import annotations

import time
from typing import Any

from edgeq.results.serialization import to_json
from edgeq.runtimes.base import Session
from edgeq.runtimes.runner import make_inputs

MAX_RUNS, MAX_S = 50, 2.0
"""Runs that are profiled at most, and about how long; five at least."""

_MIN_RUNS = 5


def time_layers(session: Session, max_runs: int = MAX_RUNS, max_s: float = MAX_S) -> Any:
    """Returns an `edgeq.results.measurement.LayerProfile` as JSON values; `None` if the engine has no profiler.

    Args:
        session: The open model.
        max_runs: Runs at most.
        max_s: Seconds that the runs may take, five runs aside.
    """
    inputs = make_inputs(session.artifact)
    session.run(inputs)
    begun = time.perf_counter()
    session.run(inputs)
    run_s = time.perf_counter() - begun
    runs = min(max_runs, max(_MIN_RUNS, int(max_s / run_s)))
    return to_json(session.time_layers(inputs, runs))
