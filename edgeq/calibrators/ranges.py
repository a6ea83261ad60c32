"""`Ranges`: the calibrated range of every tensor, where it came from, and the histograms to compute it anew.

The file is JSON that a person can read and compare: one short line a tensor, names sorted, numbers in their shortest
exact form, and the histograms last, one line each. The same calibration writes the same bytes.
"""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgeq.calibrators import get_method
from edgeq.calibrators.candidates import Choice
from edgeq.calibrators.grid import Range
from edgeq.calibrators.histogram import Histogram
from edgeq.errors import InputError, MismatchError
from edgeq.files import read_json, sha256_json, write_text

FORMAT = "edgeq-ranges"
_VERSION = 1


@dataclass(frozen=True)
class Provenance:
    """What the ranges were collected from.

    Attributes:
        model_digest: Digest of the float graph whose tensors were observed.
        preprocessing_digest: `Preprocessing.digest` of what made the model's inputs.
        images: Number of images.
        images_digest: SHA-256 over the images' sorted digests: their order does not show.
        tool_version: Version of edgeq.
    """

    model_digest: str
    preprocessing_digest: str
    images: int
    images_digest: str
    tool_version: str

    @classmethod
    def of(
        cls, *, model_digest: str, preprocessing_digest: str, image_digests: Iterable[str], tool_version: str
    ) -> Provenance:
        """Returns the provenance for the SHA-256 digests of the images' files, in any order."""
        digests = sorted(image_digests)
        combined = hashlib.sha256("\n".join(digests).encode()).hexdigest()
        return cls(model_digest, preprocessing_digest, len(digests), combined, tool_version)


@dataclass(frozen=True)
class Ranges:
    """Tensor name -> range, by one method, with provenance.

    Attributes:
        method: Name of the method, as in `METHODS`.
        options: The options it was given.
        provenance: What the histograms were collected from.
        tensors: Tensor name -> range.
        histograms: Tensor name -> histogram, for the same names.
        choices: Tensor name -> why it has its range, where method `best` chose it.
    """

    method: str
    options: Mapping[str, Any]
    provenance: Provenance
    tensors: Mapping[str, Range]
    histograms: Mapping[str, Histogram]
    choices: Mapping[str, Choice] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_histograms(
        cls, histograms: Mapping[str, Histogram], provenance: Provenance, method: str = "entropy", **options: Any
    ) -> Ranges:
        """Returns the ranges that a method finds in the histograms.

        Raises:
            InputError: there is no such method, or it does not take such options.
        """
        function = get_method(method)
        try:
            inspect.signature(function).bind(Histogram(), **options)
        except TypeError as error:
            raise InputError(f"method {method!r} cannot take the options {sorted(options)} ({error})") from error
        tensors = {name: function(histogram, **options) for name, histogram in histograms.items()}
        return cls(method, options, provenance, tensors, histograms)

    def with_method(self, method: str, **options: Any) -> Ranges:
        """Returns what another method finds in the same histograms; no image is needed.

        Raises:
            InputError: there is no such method, or it does not take such options.
        """
        return Ranges.from_histograms(self.histograms, self.provenance, method, **options)

    def interval(self, name: str) -> tuple[float, float]:
        """Returns the asymmetric form of a tensor's range: `low <= 0 <= high`.

        Raises:
            MismatchError: the tensor was not observed.
        """
        found = self._tensor(name)
        return found.low, found.high

    def threshold(self, name: str) -> float:
        """Returns the symmetric form of a tensor's range: the magnitude that becomes 127, above 0.

        Raises:
            MismatchError: the tensor was not observed.
        """
        return self._tensor(name).threshold

    @property
    def digest(self) -> str:
        """SHA-256 over everything that `save` writes."""
        return sha256_json(self._to_json())

    def check(self, *, model_digest: str, preprocessing_digest: str) -> None:
        """Checks that the ranges belong to a model and to its pre-processing.

        Raises:
            MismatchError: they were collected on another model, with another pre-processing, or by an edgeq that
                identified models in another way.
        """
        for subject, found, wanted in (
            ("another model", self.provenance.model_digest, model_digest),
            ("other pre-processing", self.provenance.preprocessing_digest, preprocessing_digest),
        ):
            if found != wanted:
                if _digest_version(found) < _digest_version(wanted):
                    raise MismatchError(
                        f"the ranges were collected by an older edgeq ({self.provenance.tool_version}), which did not "
                        "look at all of a model, or on a TFLite file; run `edgeq calibrate` again on this model"
                    )
                if _digest_version(found) > _digest_version(wanted):
                    raise MismatchError(
                        "the file was exported by an older edgeq than the ranges were collected with; run "
                        "`edgeq export` again with these ranges"
                    )
                raise MismatchError(
                    f"the ranges were collected with {subject} (digest {found[:12]}, wanted {wanted[:12]}); "
                    "run `edgeq calibrate` again on this model"
                )

    def save(self, path: Path) -> None:
        """Writes the file, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        document = self._to_json()
        sections = [f"  {json.dumps(key)}: {_render(value)}" for key, value in document.items()]
        write_text(path, "{\n" + ",\n".join(sections) + "\n}\n")

    @classmethod
    def load(cls, path: Path) -> Ranges:
        """Returns the ranges that `save` wrote.

        Raises:
            InputError: the file is missing, damaged, of another kind or version, or its parts contradict each other.
        """
        document = read_json(path, kind="ranges that `edgeq calibrate` wrote")
        try:
            return _parse(document)
        except (InputError, KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            reason = f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)
            raise InputError(f"{path}: cannot be used as ranges: {reason}; run `edgeq calibrate` again") from error

    def _tensor(self, name: str) -> Range:
        if name not in self.tensors:
            raise MismatchError(
                f"the ranges hold no tensor {name!r} (they hold {len(self.tensors)}, for another model or target); "
                "run `edgeq calibrate` again on this model"
            )
        return self.tensors[name]

    def _to_json(self) -> dict[str, Any]:
        choices = {name: _render_choice(self.choices[name]) for name in sorted(self.choices)}
        return {
            "format": FORMAT,
            "version": _VERSION,
            "method": self.method,
            "options": dict(sorted(self.options.items())),
            "provenance": dataclasses.asdict(self.provenance),
            "tensors": {name: dataclasses.asdict(self.tensors[name]) for name in sorted(self.tensors)},
            # A file of another method has no such section, and neither had those of earlier versions.
            **({"choices": choices} if choices else {}),
            "histograms": {name: self.histograms[name].to_json() for name in sorted(self.histograms)},
        }


def _digest_version(digest: str) -> int:
    """Returns the version in front of a model's digest; 1 for a digest without one."""
    version, separator, _ = digest.partition(":")
    return int(version) if separator and version.isdecimal() else 1


def _render(value: Any) -> str:
    """Returns JSON in which an object spreads over lines, one line an entry."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value, allow_nan=False)
    lines = [f"    {json.dumps(key)}: {json.dumps(entry, allow_nan=False)}" for key, entry in value.items()]
    return "{\n" + ",\n".join(lines) + "\n  }"


def _parse(document: Any) -> Ranges:
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise InputError(f"it is JSON, but not of the format {FORMAT!r}")
    if document["version"] != _VERSION:
        raise InputError(f"version {document['version']!r}, this edgeq reads {_VERSION}")
    tensors = {name: _parse_range(name, entry) for name, entry in document["tensors"].items()}
    if differing := sorted(tensors.keys() ^ document["histograms"].keys()):
        raise InputError(f"tensors and histograms differ in {differing[0]!r} and {len(differing) - 1} more names")
    histograms = {name: _parse_histogram(name, entry) for name, entry in document["histograms"].items()}
    provenance = Provenance(**document["provenance"])
    for field in dataclasses.fields(Provenance):
        found = getattr(provenance, field.name)
        if type(found) is not (int if field.name == "images" else str):
            raise InputError(f"provenance: {field.name} is {found!r}")
    method, options = document["method"], document["options"]
    if not isinstance(method, str) or not isinstance(options, dict):
        raise InputError(f"method {method!r} with options {options!r} is none")
    choices = {name: _parse_choice(name, entry) for name, entry in document.get("choices", {}).items()}
    return Ranges(method, options, provenance, tensors, histograms, choices)


def _parse_range(name: str, entry: Any) -> Range:
    numbers = {key: entry[key] for key in ("low", "high", "threshold")}
    if entry.keys() != numbers.keys() or not all(type(number) in (int, float) for number in numbers.values()):
        raise InputError(f"tensor {name!r}: wanted three numbers, low, high and threshold")
    try:
        return Range(**{key: float(number) for key, number in numbers.items()})
    except ValueError as error:
        raise InputError(f"tensor {name!r}: {error}") from error


def _parse_histogram(name: str, entry: Any) -> Histogram:
    try:
        return Histogram.from_json(entry)
    except InputError as error:
        raise InputError(f"tensor {name!r}: {error}") from error


def _render_choice(choice: Choice) -> dict[str, Any]:
    """Returns the choice as JSON, without what a tensor that fell back does not have."""
    return {key: value for key, value in dataclasses.asdict(choice).items() if value}


def _parse_choice(name: str, entry: Any) -> Choice:
    try:
        layers = tuple(str(layer) for layer in entry.get("layers", ()))
        errors = [
            {str(candidate): float(error) for candidate, error in entry.get(key, {}).items()}
            for key in ("asymmetric_errors", "symmetric_errors")
        ]
        return Choice(str(entry["asymmetric"]), str(entry["symmetric"]), layers, *errors)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"tensor {name!r}: {entry!r} is not a choice of method best ({error})") from error
