"""Models whose files run on both machines, with images to calibrate on and to score on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.image_sets import unpack_fashionmnist
from edgeq.boundary import Plain, read_json
from edgeq.calibration.calibrate import DEFAULT_METHOD
from edgeq.calibration.source import CalibrationSource
from edgeq.exporting.artifact import Artifact
from edgeq.files import write_json
from edgeq.sources.model import ModelRequest
from edgeq.tasks.detection.shapes import draw_shapes_dataset
from edgeq.verbs.export import export_model


@dataclass(frozen=True)
class Subject:
    """A model with images to calibrate on and to score on.

    Attributes:
        title: What it is, for a table.
        request: The model.
        calibration: Images that ranges come from.
        annotations: Annotations of the scored images; `None` where they are not of this model's task.
        images: Folder of them.
    """

    title: str
    request: ModelRequest
    calibration: CalibrationSource
    annotations: Path | None
    images: Path

    def export(self, file_format: str, folder: Path) -> dict[str, Artifact]:
        """Returns precision -> file for ARM."""
        written = export_model(
            self.request, "arm", ("fp32", "int8"), folder, calibration=self.calibration, formats=(file_format,)
        )
        return {file.artifact.precision: file.artifact for file in written.files}


def shapes(folder: Path, *, images: int) -> Subject:
    """Returns the shipped detector with drawn images."""
    calibration = draw_shapes_dataset(folder / "calibration", images=32, seed=71)
    validation = draw_shapes_dataset(folder / "validation", images=images, seed=72)
    return Subject(
        f"centernet_shapes, {images} drawn images",
        ModelRequest("centernet_shapes"),
        CalibrationSource(calibration, calibration.parent),
        validation,
        validation.parent,
    )


def fastestdet(data: Path, folder: Path, *, images: int) -> Subject:
    """Returns a trained FastestDet with the first COCO val2017 images that there are.

    Its method is named: float layers round differently on each machine, and how far that moves the AP of so few images
    depends on the ranges, which exports else choose by noise.
    """
    return Subject(
        f"FastestDet, {images} COCO val2017 images",
        ModelRequest(str(data / "weights/fastestdet_coco_352.onnx"), preset="fastestdet"),
        CalibrationSource(data / "coco/instances_train.json", data / "coco/train2017", num=64, method=DEFAULT_METHOD),
        first_images(data / "coco/instances_val.json", images, folder),
        data / "coco/val2017",
    )


def vit(data: Path, folder: Path, *, every: int) -> Subject:
    """Returns a trained vision transformer with every n-th test image of Fashion-MNIST."""
    folder.mkdir(parents=True, exist_ok=True)
    calibration = unpack_fashionmnist(data, "fashionmnist_train2k_calib", folder / "calibration", every=20)
    validation = unpack_fashionmnist(data, "fashionmnist_test10k", folder / "validation", every=every)
    return Subject(
        f"Fashion-MNIST ViT, every {every}th test image",
        ModelRequest("vit_fashionmnist", weights=data / "weights/vit_d128_l6_fashionmnist.safetensors"),
        CalibrationSource(calibration.parent),
        validation,
        validation.parent,
    )


def first_images(annotations: Path, count: int, folder: Path) -> Path:
    """Writes COCO annotations of the first images alone, and returns the file."""
    document = read_json(annotations, Plain, kind="COCO annotations")
    images = document["images"][:count]
    ids = {image["id"] for image in images}
    boxes = [box for box in document["annotations"] if box["image_id"] in ids]
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "annotations.json", document | {"images": images, "annotations": boxes})
    return folder / "annotations.json"


def resnet(folder: Path, *, images: int) -> Subject:
    """Returns a classifier with random weights, all of it in INT8, with drawn images."""
    return replace(
        shapes(folder, images=images),
        title=f"cifar_resnet20 of random weights, {images} drawn images",
        request=ModelRequest("cifar_resnet20"),
        annotations=None,
    )
