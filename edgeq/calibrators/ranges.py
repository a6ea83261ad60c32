"""`Ranges`: the calibrated range of every tensor, where it came from, and the histograms to compute it anew.

The file is JSON that a person can read and compare: one short line a tensor, names sorted, numbers in their shortest
exact form, and the histograms and kept inputs last, one line each. The same calibration writes the same bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from edgeq.boundary import Count, Raw, parse_json, read_limited
from edgeq.calibrators import get_method
from edgeq.calibrators.candidates import Choice
from edgeq.calibrators.grid import SMALLEST_AMAX, Range
from edgeq.calibrators.histogram import Histogram
from edgeq.calibrators.kept_samples import KeptSample
from edgeq.errors import InputError, MismatchError
from edgeq.files import sha256_json, write_text
from edgeq.packing import PackedArray, pack_array, unpack_array

T = TypeVar("T")

FORMAT = "edgeq-ranges"
_VERSION = 1
_KIND = "ranges that `edgeq calibrate` wrote"
_MAX_CHANNELS = 1 << 20
_RECALIBRATE = "run `edgeq calibrate` again"


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
    images: Count
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
        samples: Inputs that were kept, for tensors that are in no histogram.
        strongest: Inputs whose outputs are strongest, to judge files on, the strongest first.
        channel_maxima: Tensor that a weighted layer reads -> the largest value of each of its channels.
    """

    method: str
    options: Mapping[str, Any]
    provenance: Provenance
    tensors: Mapping[str, Range]
    histograms: Mapping[str, Histogram]
    choices: Mapping[str, Choice] = dataclasses.field(default_factory=dict)
    samples: tuple[KeptSample, ...] = ()
    channel_maxima: Mapping[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    strongest: tuple[KeptSample, ...] = ()

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
        changed = Ranges.from_histograms(self.histograms, self.provenance, method, **options)
        return dataclasses.replace(
            changed, samples=self.samples, channel_maxima=self.channel_maxima, strongest=self.strongest
        )

    def has_given(self, digest: str, method: str | None) -> bool:
        """Returns whether ranges of a digest are these, or what a method finds in their histograms.

        Args:
            digest: Of ranges that a file was made from.
            method: The method of those; one that needs more than histograms, or is not known, has given none.
        """
        if self.digest == digest:
            return True
        try:
            return method is not None and self.with_method(method).digest == digest
        except InputError:
            return False

    @functools.cached_property
    def zeros(self) -> frozenset[str]:
        """Names of the tensors that were zero on all images: joined with others, they need no room of their own."""
        return frozenset(name for name, histogram in self.histograms.items() if histogram.amax < SMALLEST_AMAX)

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

    @functools.cached_property
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

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file, whole or not at all.

        Raises:
            InputError: it cannot be written.
        """
        document = self._to_json()
        sections = [f"  {json.dumps(key)}: {_render(value)}" for key, value in document.items()]
        write_text(Path(path), "{\n" + ",\n".join(sections) + "\n}\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Ranges:
        """Returns the ranges that `save` wrote.

        Raises:
            InputError: the file is missing, damaged, of another kind or version, or its parts contradict each other.
        """
        path = Path(path)
        content = read_limited(path, _KIND)
        head = _parse(path, content, _Head)
        if head.format != FORMAT:
            raise InputError(f"{path}: is not of the format {FORMAT!r}; expected {_KIND}; {_RECALIBRATE}")
        if head.version != _VERSION:
            raise InputError(f"{path}: has version {head.version}, this edgeq reads {_VERSION}; {_RECALIBRATE}")
        read = _parse(path, content, _File)
        if differing := sorted(read.tensors.keys() ^ read.histograms.keys()):
            raise InputError(
                f"{path}: its tensors and histograms differ in {differing[0]!r} and {len(differing) - 1} more names; "
                f"{_RECALIBRATE}"
            )
        return cls(
            read.method,
            read.options,
            read.provenance,
            {name: _parse(path, entry, Range, f"$.tensors[{name!r}]") for name, entry in read.tensors.items()},
            {
                name: _parse_entry(path, f"$.histograms[{name!r}]", entry, Histogram.from_json)
                for name, entry in read.histograms.items()
            },
            {name: _parse(path, entry, Choice, f"$.choices[{name!r}]") for name, entry in read.choices.items()},
            _samples(path, read.samples, "samples"),
            {
                name: _maxima(path, name, _parse(path, entry, PackedArray, f"$.channel_maxima[{name!r}]"))
                for name, entry in read.channel_maxima.items()
            },
            _samples(path, read.strongest, "strongest"),
        )

    def _tensor(self, name: str) -> Range:
        if name not in self.tensors:
            raise MismatchError(
                f"the ranges hold no tensor {name!r} (they hold {len(self.tensors)}, for another model or target); "
                "run `edgeq calibrate` again on this model"
            )
        return self.tensors[name]

    def _to_json(self) -> dict[str, Any]:
        choices = {name: _render_choice(self.choices[name]) for name in sorted(self.choices)}
        maxima = {
            name: pack_array(np.array(self.channel_maxima[name], np.float32)) for name in sorted(self.channel_maxima)
        }
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
            **({"channel_maxima": maxima} if maxima else {}),
            **({"samples": [sample.to_json() for sample in self.samples]} if self.samples else {}),
            **({"strongest": [sample.to_json() for sample in self.strongest]} if self.strongest else {}),
        }


def _digest_version(digest: str) -> int:
    """Returns the version in front of a model's digest; 1 for a digest without one."""
    version, separator, _ = digest.partition(":")
    return int(version) if separator and version.isdecimal() and len(version) < 10 else 1


def _render(value: Any) -> str:
    """Returns JSON in which an object or a list spreads over lines, one line an entry."""
    if isinstance(value, list):
        return "[\n" + ",\n".join(f"    {json.dumps(entry, allow_nan=False)}" for entry in value) + "\n  ]"
    if not isinstance(value, dict) or not value:
        return json.dumps(value, allow_nan=False)
    lines = [f"    {json.dumps(key)}: {json.dumps(entry, allow_nan=False)}" for key, entry in value.items()]
    return "{\n" + ",\n".join(lines) + "\n  }"


class _Head(msgspec.Struct):
    format: str | None = None
    version: int | None = None


class _File(msgspec.Struct):
    """The content of a file; what is said of one tensor is parsed with the tensor's name in its errors."""

    method: str
    options: dict[str, Any]
    provenance: Provenance
    tensors: dict[str, Raw]
    histograms: dict[str, Raw]
    choices: dict[str, Raw] = {}
    samples: list[Raw] = []
    channel_maxima: dict[str, Raw] = {}
    strongest: list[Raw] = []


def _samples(path: Path, entries: Sequence[Raw], key: str) -> tuple[KeptSample, ...]:
    """Returns the inputs that are listed under a key of a file."""
    return tuple(
        _parse_entry(path, f"$.{key}[{number}]", entry, KeptSample.from_json) for number, entry in enumerate(entries)
    )


def _parse(path: Path, content: bytes | Raw, wanted: type[T], place: str = "$") -> T:
    return parse_json(content, wanted, source=path, kind=_KIND, advice=_RECALIBRATE, place=place)


def _parse_entry(path: Path, place: str, entry: Raw, from_json: Callable[[dict[str, Any]], T]) -> T:
    try:
        return from_json(_parse(path, entry, dict[str, Any], place))
    except InputError as error:
        raise error if place in str(error) else InputError(f"{path}: {place} is {error}; {_RECALIBRATE}") from error


def _maxima(path: Path, name: str, packed: PackedArray) -> tuple[float, ...]:
    try:
        found = unpack_array(packed, _MAX_CHANNELS * 4)
    except ValueError as error:
        raise InputError(f"{path}: $.channel_maxima[{name!r}] is damaged ({error}); {_RECALIBRATE}") from error
    if found.ndim != 1 or found.dtype != np.float32 or not np.isfinite(found).all():
        raise InputError(f"{path}: $.channel_maxima[{name!r}] needs finite float32 numbers in a row; {_RECALIBRATE}")
    return tuple(found.tolist())


def _render_choice(choice: Choice) -> dict[str, Any]:
    """Returns the choice as JSON, without what a tensor that fell back does not have."""
    return {key: value for key, value in dataclasses.asdict(choice).items() if value}
