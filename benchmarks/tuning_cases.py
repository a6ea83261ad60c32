"""The models that `benchmarks.tuning` tunes, opened with their images; faces are scored against FP32's own findings."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import trained_vit
from benchmarks.any_graph import SUBJECTS
from benchmarks.image_sets import ImageSet, image_set
from benchmarks.scored_models import TUNED
from benchmarks.sensitivity import EVERY, Case, open_case, request_of
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.graphs.transformer import find_transformer
from edgeq.exporting.onnx.writer import write_fp32
from edgeq.files import write_json
from edgeq.inputs import evenly_spaced
from edgeq.inputs.images import list_images, read_image
from edgeq.inputs.preprocessing import preprocess
from edgeq.machine import read_machine
from edgeq.runtimes import open_session
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target
from edgeq.targets.isa import with_isa
from edgeq.tasks import find_decoder
from edgeq.tuning.scoring import ScoringOptions
from edgeq.tuning.trials import Subject
from edgeq.verbs.sensitivity import in_format

FACES = ("yunet", "ultraface")
"""Detectors of faces, of which there is no annotated data set here."""

CERTAIN_FACE = 0.5
"""Score from which a face that FP32 finds is taken for one."""


def open_tuned(name: str, engine: str, target_name: str, data: Path, work: Path, num: int) -> tuple[Case, ImageSet]:
    """Returns a model as `edgeq tune` searches it, less the calibration of rescaled channels, and its images.

    Args:
        name: Of the model.
        engine: Name of the runtime that files are scored in.
        target_name: Whose files are looked for.
        data: Folder of the real data.
        work: Folder for ranges and images.
        num: How many images to calibrate on.
    """
    target = with_isa(get_target(target_name), None, read_machine())
    target = dataclasses.replace(target, rules=target.rules.of_any_size)
    if name == "vit_d64" and not trained_vit.WEIGHTS.is_file():
        trained_vit.run(data)
    if name in FACES:
        request = ModelRequest(str(data / SUBJECTS[name].reference), preset=name)
        case, images = _open_faces(request, data, work, num)
    else:
        case, request = open_case(name, data, work, num), request_of(name, data)
        images = image_set(TUNED[name].images, data, work, scored_every=EVERY.get(name, 1))
    is_transformer = bool(find_transformer(case.subject.model.graph).blocks)
    subject = dataclasses.replace(case.subject, target=target, vit_plan="fast" if is_transformer else "balanced")
    options = ScoringOptions(runtime=engine, threads=1)
    subject = in_format(subject, request, open_model(request), case.source, work, options)
    return dataclasses.replace(case, subject=subject), images


def _open_faces(request: ModelRequest, data: Path, work: Path, num: int) -> tuple[Case, ImageSet]:
    """Returns a detector of faces, scored on all COCO images that it is not calibrated on."""
    work.mkdir(parents=True, exist_ok=True)
    model = open_model(request).model
    coco = data / "coco"
    source = CalibrationSource(coco / "train2017", None, num=num)
    ranges, _ = source.ranges(model, work, 1)
    truth = work / "own_faces.json"
    if not truth.is_file():
        train = list_images(coco / "train2017", None)
        calibrated = set(evenly_spaced(train, num))
        scored = [*list_images(coco / "val2017", None), *(path for path in train if path not in calibrated)]
        fp32 = write_fp32(model, get_target("x86-ort"), work)
        write_json(truth, own_findings(fp32, scored, coco))
    assert model.postprocessing is not None
    task = find_decoder(model.postprocessing).task.from_files(truth, coco, "pycocotools")
    subject = Subject(model, get_target("x86"), ranges, "layer")
    return Case(subject, task, source, work / "trials.sqlite"), ImageSet(coco / "train2017", None, truth, coco)


def own_findings(fp32: Artifact, paths: list[Path], folder: Path) -> dict[str, Any]:
    """Returns what a float file finds for certain as COCO annotations, so that others are scored by how they agree.

    Args:
        fp32: The float file of a detector of one class.
        paths: The images.
        folder: Folder that their names start from.
    """
    post, spec = fp32.postprocessing, fp32.preprocessing
    assert post is not None
    assert spec is not None
    decoder = find_decoder(post)
    (feed,) = fp32.inputs
    images, annotations = list[dict[str, Any]](), list[dict[str, Any]]()
    with open_session(fp32, "onnxruntime", 1) as session:
        for number, path in enumerate(paths, start=1):
            pixels = read_image(path)
            array, placement = preprocess(pixels, spec)
            found = decoder.decode(session.run({feed.name: feed.encode(array)}), post, placement)
            height, width = np.asarray(pixels).shape[:2]
            name = path.relative_to(folder).as_posix()
            images.append({"id": number, "file_name": name, "width": width, "height": height})
            for (left, top, right, bottom), score in zip(found.boxes.tolist(), found.scores.tolist(), strict=True):
                if score < CERTAIN_FACE:
                    continue
                box = [left, top, right - left, bottom - top]
                annotations.append(
                    {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": box,
                     "area": box[2] * box[3], "iscrowd": 0}
                )  # fmt: skip
    return {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": fp32.labels[0]}]}
