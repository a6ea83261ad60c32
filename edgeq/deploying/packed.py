"""A model in a deployment folder: `models/NAME/1/FILE` with its manifest, the layout that Triton and OVMS both read."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgeq.deploying.quoting import one_line, plain_name
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact, manifest_path
from edgeq.exporting.quantization_facts import CalibrationCacheFacts
from edgeq.files import sha256_file

Content = str | Path
"""What a file of the folder holds: a text, or the bytes of a file that is copied."""

MAX_BATCH = 8
"""Images in a batch of a server, and of an engine, if the model's batch axis is free."""


@dataclass(frozen=True)
class Packed:
    """A model with its plain names.

    Attributes:
        artifact: The model as it was exported.
        name: Name of its folder, and of the model at a server.
        file: Name of its file.
        runtime: Name of the runtime that the file is planned for.
        float_file: Name of the float file that the calibration cache is for; `None` without a cache.
        cache: Name of the calibration cache; `None` without one.
    """

    artifact: Artifact
    name: str
    file: str
    runtime: str
    float_file: str | None = None
    cache: str | None = None

    @property
    def folder(self) -> str:
        """Path of the folder that holds its file."""
        return f"models/{self.name}/1"

    @property
    def path(self) -> str:
        """Path of its file."""
        return f"{self.folder}/{self.file}"

    @property
    def batch_is_free(self) -> bool:
        """Whether the first axis of every input and output may have any length."""
        tensors = (*self.artifact.inputs, *self.artifact.outputs)
        return all(spec.shape and spec.shape[0] is None for spec in tensors)

    @property
    def labels_path(self) -> str | None:
        """Path of its class names; `None` without any."""
        return f"models/{self.name}/labels.txt" if self.artifact.labels else None

    def contents(self) -> dict[str, Content]:
        """Returns path -> content of its own files: model, manifest, weights, labels, cache and the cache's float file.

        Raises:
            InputError: a file that the manifest names is missing or has changed, or cannot be renamed.
        """
        found = self._model(self.artifact, self.file)
        if self.cache is not None and self.float_file is not None:
            found |= self._calibration(self.float_file, self.cache)
        if self.labels_path is not None:
            found[self.labels_path] = "".join(f"{one_line(label)}\n" for label in self.artifact.labels)
        return found

    def _calibration(self, float_name: str, cache_name: str) -> dict[str, Content]:
        facts = _cache_of(self.artifact)
        assert facts is not None  # noqa: S101 - there is a name for it
        source = Artifact.load(self.artifact.path.with_name(facts.float_file))
        cache = self.artifact.path.with_name(facts.file)
        if not cache.is_file() or (facts.digest and sha256_file(cache) != facts.digest):
            raise InputError(f"{cache}: is not the calibration cache that was exported with the model; export it again")
        return {**self._model(source, float_name), f"{self.folder}/{cache_name}": cache}

    def _model(self, artifact: Artifact, name: str) -> dict[str, Content]:
        """Returns path -> content of a model, its manifest, and its weights if they are in a file of their own."""
        path = f"{self.folder}/{name}"
        found: dict[str, Content] = {path: artifact.path, f"{path}.json": self._manifest(artifact, name)}
        if (weights := artifact.weights_path) is not None:
            if plain_name(weights.name) != weights.name:
                raise InputError(
                    f"{weights}: the model refers to its weights by this name, which servers and scripts do not take; "
                    "rename the model and export it again"
                )
            found[f"{self.folder}/{weights.name}"] = weights
        return found

    def _manifest(self, artifact: Artifact, name: str) -> Content:
        """Returns the manifest as it was written, or with the plain names."""
        facts = _cache_of(artifact)
        quantization: Mapping[str, object] = artifact.quantization
        if facts is not None and (self.cache, self.float_file) != (facts.file, facts.float_file):
            cache = dict(artifact.quantization["calibration_cache"])
            quantization = {**quantization, "calibration_cache": cache | _names(self.cache, self.float_file)}
        if name == artifact.name and quantization == artifact.quantization:
            return manifest_path(artifact.path)
        renamed = dataclasses.replace(artifact, path=artifact.path.with_name(name), quantization=quantization)
        return json.dumps(renamed.to_json(), indent=2, allow_nan=False) + "\n"


def pack(artifact: Artifact, runtime: str) -> Packed:
    """Returns a model with the names that it has in a deployment folder.

    A calibration cache comes along where its float file lies next to the model too.
    """
    file = plain_name(artifact.name)
    facts = _cache_of(artifact)
    has_cache = facts is not None and all(
        artifact.path.with_name(name).is_file() for name in (facts.file, facts.float_file)
    )
    return Packed(
        artifact,
        # An export for arm writes both formats of one name.
        file.removesuffix(".onnx") if artifact.format == "onnx" else file,
        file,
        runtime,
        plain_name(facts.float_file) if facts is not None and has_cache else None,
        plain_name(facts.file) if facts is not None and has_cache else None,
    )


def _cache_of(artifact: Artifact) -> CalibrationCacheFacts | None:
    return artifact.quantization_facts.calibration_cache


def _names(cache: str | None, float_file: str | None) -> dict[str, str]:
    return {key: name for key, name in (("file", cache), ("float_file", float_file)) if name is not None}
