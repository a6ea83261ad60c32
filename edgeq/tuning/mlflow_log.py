"""`edgeq tune --mlflow`: a search as a run of MLflow, and each of its trials as a run below it."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.errors import InputError, MissingDependencyError
from edgeq.events import BudgetMet, Event, SearchStarted, TrialFinished, TrialScored, TrialStarted, TrialTimed, heard_by
from edgeq.results.serialization import to_json
from edgeq.results.tuning import TuningResult

FROM_ENVIRONMENT = "env"
"""Address that stands for the one in MLFLOW_TRACKING_URI."""

_EXPERIMENT = "edgeq"
_PARENT = "mlflow.parentRunId"

# A server that does not answer is asked once again, not for four minutes. MLflow reports its use to its authors unless
# it is told not to, which who runs edgeq has not agreed to.
_SETTINGS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class MlflowExperiment:
    """An experiment of a tracking server or database, which answers.

    Attributes:
        client: MLflow's client.
        number: How it knows the experiment.
    """

    client: Any
    number: str

    @classmethod
    def open(cls, address: str) -> MlflowExperiment:
        """Returns the experiment `edgeq`, or the one that MLFLOW_EXPERIMENT_NAME names; it is made if there is none.

        Args:
            address: Tracking URI, or `FROM_ENVIRONMENT`.

        Raises:
            MissingDependencyError: MLflow's client is not installed.
            InputError: nothing answers there.
        """
        if importlib.util.find_spec("mlflow") is None:
            raise MissingDependencyError("mlflow", "mlflow", "Logging trials to MLflow")
        for name, value in _SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        try:
            client = MlflowClient(tracking_uri=None if address == FROM_ENVIRONMENT else address)
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _EXPERIMENT
            found = client.get_experiment_by_name(name)
            return cls(client, client.create_experiment(name) if found is None else found.experiment_id)
        except Exception as error:  # MLflow hands on what the libraries below it raise
            raise InputError(
                f"`mlflow` {address}: {_sentence(error)}; wanted the address of a tracking server, as "
                f"http://host:5000, a database, as sqlite:///mlflow.db, or {FROM_ENVIRONMENT} for MLFLOW_TRACKING_URI"
            ) from error

    @contextlib.contextmanager
    def following(self, name: str) -> Iterator[MlflowLog]:
        """Logs the search of the block as a run of this name, and yields its log; the run ends with the block.

        Raises:
            InputError: no run can be made.
        """
        try:
            log = MlflowLog(self, name)
        except Exception as error:
            raise InputError(f"`mlflow`: {_sentence(error)}; repair it, or omit `mlflow`") from error
        status = "FAILED"
        try:
            with heard_by(log.hear):
                yield log
            status = "FINISHED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise
        finally:
            log.end(status)


class MlflowLog:
    """The run of a search, and the runs of its trials.

    What MLflow refuses while the search runs ends the logging, with a warning, and not the search.

    Args:
        experiment: Where they belong.
        name: What the run is called.
    """

    def __init__(self, experiment: MlflowExperiment, name: str) -> None:
        self._client = experiment.client
        self._experiment = experiment.number
        self._run: str = self._client.create_run(self._experiment, run_name=name).info.run_id
        self._trials: dict[str, str] = {}
        self._open: set[str] = set()
        self._failed = False

    def hear(self, event: Event) -> None:
        """Logs an event of the search or of a trial, and nothing of others."""
        self._unless_it_fails(lambda: self._take(event))

    def add_result(self, result: TuningResult, picture: Path) -> None:
        """Adds the files that were tried, as JSON, and the picture of the front."""
        self._unless_it_fails(lambda: self._client.log_dict(self._run, to_json(result), "tuning.json"))
        self._unless_it_fails(lambda: self._client.log_artifact(self._run, str(picture)))

    def end(self, status: str) -> None:
        """Ends the run as `FINISHED`, `FAILED` or `KILLED`, and trials that are not finished as `KILLED`."""
        for run in sorted(self._open):
            self._unless_it_fails(functools.partial(self._client.set_terminated, run, "KILLED"))
        self._unless_it_fails(lambda: self._client.set_terminated(self._run, status))

    def _unless_it_fails(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:
            self._failed = True
            _log.warning("MLflow: %s; the search continues without it", _sentence(error))

    def _take(self, event: Event) -> None:
        if isinstance(event, SearchStarted):
            self._add(self._run, {"float_score": event.float_score}, params=_params(event))
        elif isinstance(event, TrialStarted):
            self._begin(event)
        elif isinstance(event, TrialScored | TrialTimed | TrialFinished) and event.trial in self._trials:
            self._follow(event)
        elif isinstance(event, BudgetMet):
            self._add(self._run, {}, tags={"recommended": event.name})
            proof = "proved" if event.proved else "not proved"
            self._add(self._trials[event.trial], {}, tags={"recommended": proof})

    def _begin(self, event: TrialStarted) -> None:
        tags = {_PARENT: self._run}
        run = self._client.create_run(self._experiment, tags=tags, run_name=event.name).info.run_id
        self._trials[event.trial] = run
        self._open.add(run)
        self._add(run, {}, params=_params(event))

    def _follow(self, event: TrialScored | TrialTimed | TrialFinished) -> None:
        run = self._trials[event.trial]
        if isinstance(event, TrialScored):
            self._add(run, _points(event), step=event.images)
        elif isinstance(event, TrialTimed):
            time_s = {"time_over_fp32": event.ratio, "time_over_fp32_low": event.low, "time_over_fp32_high": event.high}
            self._add(run, {**time_s, "p50_ms": event.p50_ms})
        else:
            tags = {"time": event.obtained, **({"dropped": event.dropped} if event.dropped else {})}
            found = {**_points(event), "score": event.score, "time_over_fp32": event.ratio, "p50_ms": event.p50_ms}
            self._add(run, {**found, "size_bytes": event.size_bytes}, tags=tags, step=event.images)
            self._client.set_terminated(run)
            self._open.discard(run)

    def _add(
        self,
        run: str,
        metrics: Mapping[str, float | None],
        *,
        params: Mapping[str, object] | None = None,
        tags: Mapping[str, str] | None = None,
        step: int = 0,
    ) -> None:
        """Adds to a run in one request; metrics that are `None` are not known."""
        from mlflow.entities import Metric, Param, RunTag

        now_ms = int(time.time() * 1000)
        self._client.log_batch(
            run,
            metrics=[Metric(name, value, now_ms, step) for name, value in metrics.items() if value is not None],
            params=[Param(name, str(value)) for name, value in (params or {}).items()],
            tags=[RunTag(name, value) for name, value in (tags or {}).items()],
        )


def _params(event: Event) -> dict[str, object]:
    return {name: getattr(event, name) for name in event.__struct_fields__ if name != "float_score"}


def _points(event: TrialScored | TrialFinished) -> dict[str, float | None]:
    return {"points": event.points, "points_low": event.low, "points_high": event.high}


def _sentence(error: Exception) -> str:
    """Returns the first sentence of a message; MLflow's are of several lines."""
    lines = str(error).strip().splitlines()
    return lines[0].split(". ")[0].rstrip(". ") if lines else type(error).__name__
