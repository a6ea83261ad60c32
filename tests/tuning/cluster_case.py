"""A sensitivity that takes a second, with what one process finds."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgeq.calibration.source import CalibrationSource
from edgeq.datasets import open_split
from edgeq.exporting.artifact import Artifact
from edgeq.machine import read_machine
from edgeq.results.serialization import to_json
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target
from edgeq.targets.isa import with_isa
from edgeq.tasks import Task, find_decoder
from edgeq.tuning.executors import Executor
from edgeq.tuning.sensitivity import SensitivityOptions, measure_sensitivity
from edgeq.tuning.staged import draw_stages
from edgeq.tuning.store import Store
from edgeq.tuning.trials import Subject
from tests.tuning.nets import save_classifier

RUNTIME = "onnxruntime"
IMAGES = 40


class Case(NamedTuple):
    """A classifier with images.

    Attributes:
        subject: The classifier and its ranges.
        task: Its images.
        inputs: Inputs of the screening.
        file: It in INT8.
        stages: Positions of images.
        alone: What one process finds.
        rows: What its store holds then.
    """

    subject: Subject
    task: Task[Any]
    inputs: list[np.ndarray]
    file: Artifact
    stages: list[list[int]]
    alone: dict[str, Any]
    rows: list[tuple[Any, ...]]

    def find(self, store: Path, executor: Executor | None) -> dict[str, Any]:
        """Returns the sensitivity of its layers, every one scored on every image."""
        options = SensitivityOptions(runtime=RUNTIME, threads=1, thorough=True)
        with Store(store) as opened:
            found = measure_sensitivity(self.subject, self.task, self.inputs, options, opened, executor)
        document: dict[str, Any] = to_json(found)
        return document


def open_case(folder: Path, target_name: str = "arm") -> Case:
    """Returns the case; its files lie in a folder."""
    file, preset, labels, calib = save_classifier(folder, images=IMAGES)
    model = open_model(ModelRequest(str(file), preset=str(preset))).model
    assert model.postprocessing is not None
    task = find_decoder(model.postprocessing).task.from_split(open_split(labels, "evaluation"), "pycocotools")
    source, target = CalibrationSource(calib), with_isa(get_target(target_name), None, read_machine())
    ranges, _ = source.ranges(model, folder, 1)
    subject = Subject(model, target, ranges, "layer")
    inputs = [array for array, _ in source.inputs(model.preprocessing, 2)]
    written = subject.write(subject.of_groups(subject.groups), folder / "int8")
    stages = draw_stages(len(task.items), None, 0)
    case = Case(subject, task, inputs, written, stages, {}, [])
    store = folder / "alone.sqlite"
    return case._replace(alone=case.find(store, None), rows=rows_of(store))


def rows_of(store: Path) -> list[tuple[Any, ...]]:
    """Returns the predictions that a store holds, each as often as it does: plan, image, prediction."""
    with sqlite3.connect(store) as connection:
        query = (
            "SELECT plan, images.digest, content FROM predictions JOIN trials ON trials.id = predictions.id >> 32 "
            "JOIN images ON images.id = predictions.id & 4294967295 ORDER BY plan, images.digest"
        )
        found = connection.execute(query).fetchall()
    connection.close()
    return found
