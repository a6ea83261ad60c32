"""A hunt: models are drawn and checked until the time is up; each new kind of fault is shrunk and written down."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from edgeq.files import write_json
from tests.fuzz.builder import UnsuitableError
from tests.fuzz.checks import check
from tests.fuzz.choices import Record, Repeated, Seeded, smallest
from tests.fuzz.expected import InvalidModelError
from tests.fuzz.exports import TARGETS, FaultError, RefusedError
from tests.fuzz.grammar import Subject, Wishes, build

COUNTS = "counts.json"
"""Where a hunt notes what it has tried so far."""

_LINES = 100
"""Models between two lines of progress."""

_SHRINKING = 150
"""The most models that are checked to make a failing one smaller."""


_FOR_ALL = 97
"""Models of this seed and above, of 100, are exported to all targets."""

REFUSALS = {
    r"Bitwise\w+ is an operator since opset 18": "opset 17 has no such operator, nor others that come to it",
}
"""Refusals that are right: pattern of the message -> why."""


def refusal_of(refused: RefusedError) -> str | None:
    """Returns the pattern of `REFUSALS` that a refusal is of, or `None`."""
    return next((pattern for pattern in REFUSALS if re.search(pattern, refused.message)), None)


@dataclass(frozen=True)
class Found:
    """A fault with the smallest model that shows it.

    Attributes:
        fault: The fault.
        subject: The model.
    """

    fault: FaultError
    subject: Subject

    @property
    def operators(self) -> Counter[str]:
        """How many nodes of each operator the model has."""
        return operators_of(self.subject.model)

    @property
    def file_name(self) -> str:
        """A name for it."""
        return re.sub(r"[^a-z0-9]+", "_", self.fault.kind.lower()).strip("_")[:60]


def operators_of(model: onnx.ModelProto) -> Counter[str]:
    """Returns how many nodes of each operator the main graph has."""
    return Counter(node.op_type for node in model.graph.node)


def key_of(subject: Subject) -> bytes:
    """Returns what two models have in common that are exported in the same way."""
    content: bytes = subject.model.SerializeToString()
    return content + bytes([subject.seed, subject.keeps_batch]) + repr(subject.form).encode()


def size_of(subject: Subject) -> tuple[int, int]:
    """Returns how many nodes a model has, and how many bytes."""
    return len(subject.model.graph.node), len(subject.model.SerializeToString())


@dataclass
class Hunt:
    """Draws models and keeps what was found.

    Attributes:
        wishes: What models are drawn from.
        judge: Checks a model; by default on a target that depends on its seed.
        found: The faults, each with its smallest model.
        tried: Models that were checked, but for those that were drawn to make a failing one smaller.
        invalid: Models that were drawn and are none.
        counts: Kind of fault -> models that have it.
        operators: Opset of a file and operator -> models that were checked with it.
    """

    wishes: Wishes = field(default_factory=Wishes)
    judge: Callable[[Subject], None] | None = None
    found: list[Found] = field(default_factory=list)
    tried: int = 0
    invalid: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    operators: Counter[tuple[int, str]] = field(default_factory=Counter)

    def one(self, seed: int) -> Found | None:
        """Draws a model and returns what is new about it, with the smallest model that shows it."""
        choices = Seeded(seed)
        try:
            subject = build(choices, self.wishes)
        except UnsuitableError:
            return None
        try:
            fault = self._judged(subject)
        except InvalidModelError:
            self.invalid += 1
            return None
        self.tried += 1
        opset = next(each.version for each in subject.model.opset_import if not each.domain)
        self.operators.update({(opset, operator) for operator in operators_of(subject.model)})
        if fault is None:
            return None
        self.counts[fault.kind] += 1
        if not self._is_new(fault, subject):
            return None
        self.found.append(self._smallest(choices, Found(fault, subject)))
        return self.found[-1]

    def record(self, seed: int, drawn: int, minutes: float) -> dict[str, Any]:
        """Returns what `counts.json` holds: what was tried, from which seeds, and what was found."""
        opsets = sorted({opset for opset, _ in self.operators})
        return {
            "seed": seed,
            "drawn": drawn,
            "minutes": round(minutes, 1),
            "tried": self.tried,
            "invalid": self.invalid,
            "faults": dict(self.counts),
            "operators": {str(opset): sorted(name for one, name in self.operators if one == opset) for opset in opsets},
        }

    def _smallest(self, record: Record, first: Found) -> Found:
        found = {key_of(first.subject): first}
        checked = set(found)

        def attempt(choices: Sequence[int]) -> Record | None:
            if len(checked) >= _SHRINKING:
                return None
            repeated = Repeated(choices)
            try:
                subject = build(repeated, self.wishes)
            except UnsuitableError:
                return None
            key = key_of(subject)
            if key not in checked:
                checked.add(key)
                try:
                    fault = self._judged(subject)
                except InvalidModelError:
                    return None
                if fault is not None and fault.kind == first.fault.kind:
                    found[key] = Found(fault, subject)
            return repeated if key in found else None

        smallest(record, attempt)
        return min(found.values(), key=lambda each: size_of(each.subject))

    def _judged(self, subject: Subject) -> FaultError | None:
        judge = self.judge or check_on_one
        try:
            judge(subject)
        except FaultError as fault:
            right = isinstance(fault, RefusedError) and refusal_of(fault) is not None
            found: FaultError | None = None if right else fault
        else:
            found = None
        return found

    def _is_new(self, fault: FaultError, subject: Subject) -> bool:
        """A fault in values is known only if the model has all operators of a smallest one."""
        own = operators_of(subject.model)
        return not any(each.fault.kind == fault.kind and each.operators <= own for each in self.found)


def targets_of(subject: Subject) -> Sequence[str]:
    """Returns the targets that a model is exported to: one by its seed, of few models all."""
    return TARGETS if subject.seed >= _FOR_ALL else [TARGETS[subject.seed % len(TARGETS)]]


def check_on_one(subject: Subject) -> None:
    """Checks a model on the targets that its seed says."""
    check(subject, targets_of(subject), openvino=subject.seed % 20 == 5)


def hunt(minutes: float, seed: int, out: Path, say: Callable[[str], None] = print) -> Hunt:
    """Hunts for a time, and writes what is found to a folder at once.

    Args:
        minutes: How long.
        seed: Of the first round; those after it count on.
        out: Where the smallest failing models go, as ONNX text.
        say: Takes lines of progress.
    """
    out.mkdir(parents=True, exist_ok=True)
    one, start = Hunt(), time.monotonic()
    number = 0
    while (passed := time.monotonic() - start) < 60 * minutes:
        found = one.one(seed + number)
        number += 1
        if found is not None:
            path = out / f"{len(one.found):03d}_{found.file_name}.onnxtxt"
            head, _, rest = found.subject.text.partition("\n")
            path.write_text(f"{head}\n# {found.fault.kind}\n# {found.fault.detail[:300]!r}\n{rest}", encoding="utf-8")
            say(f"NEW {found.fault} -> {path}")
        if number % _LINES == 0:
            write_json(out / COUNTS, one.record(seed, number, passed / 60))
            say(f"{passed / 60:.1f} of {minutes:g} min: {one.tried} models, {sum(one.counts.values())} with faults")
    write_json(out / COUNTS, one.record(seed, number, (time.monotonic() - start) / 60))
    return one


def summary(one: Hunt) -> str:
    """Returns what a hunt found, as lines."""
    every = {each.name for each in onnx.defs.get_all_schemas() if each.domain == ""}
    covered = {operator for _, operator in one.operators} & every
    lines = [f"{one.tried} models checked ({one.invalid} were not valid), {sum(one.counts.values())} with faults"]
    lines += [f"  {count:5d}  {kind}" for kind, count in one.counts.most_common()]
    lines.append(f"{len(covered)} of ONNX's {len(every)} operators covered")
    lines.append("not covered: " + ", ".join(sorted(every - covered)))
    return "\n".join(lines)
