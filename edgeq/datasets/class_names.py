"""Classes of a model and of a data set, matched by name: exactly, by spelling, then by synonym; never by position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edgeq.errors import InputError

SYNONYMS: tuple[tuple[str, ...], ...] = (
    # Pascal VOC and COCO
    ("aeroplane", "airplane", "plane"),
    ("motorbike", "motorcycle"),
    ("sofa", "couch"),
    ("tv monitor", "tv", "television"),
    ("potted plant", "pot plant", "plant pot"),
    ("dining table", "table"),
    ("bike", "bicycle", "cycle"),
    # LVIS, Objects365 and Open Images
    ("person", "people", "human", "pedestrian"),
    ("cell phone", "mobile phone", "cellular telephone", "smartphone"),
    ("doughnut", "donut"),
    ("hair drier", "hair dryer"),
    ("remote", "remote control"),
    ("fire hydrant", "hydrant", "fireplug"),
    ("laptop", "laptop computer"),
    ("mouse", "computer mouse"),
    ("keyboard", "computer keyboard"),
    ("fridge", "refrigerator"),
    ("traffic light", "traffic signal"),
    ("license plate", "licence plate", "number plate"),
)
"""Names of one thing in well-known data sets; each group, once in any spelling."""

_SHOWN = 10


@dataclass(frozen=True)
class ClassMatch:
    """Which class of a model is which of a data set.

    Attributes:
        pairs: Name in the model -> name in the data.
        other_names: Those of them that the user stated or that are synonyms: the pairs to look at.
        model_only: Classes of the model that the data does not have.
        data_only: Classes of the data that the model does not have.
    """

    pairs: Mapping[str, str]
    other_names: Mapping[str, str]
    model_only: tuple[str, ...]
    data_only: tuple[str, ...]

    @property
    def is_plain(self) -> bool:
        """Whether every class was matched by its own name."""
        return not (self.other_names or self.model_only or self.data_only)

    def describe(self) -> str:
        """Returns in one line what was matched and what was not."""
        parts = [f"{len(self.pairs)} of the model's {len(self.pairs) + len(self.model_only)} classes are in the data"]
        if self.other_names:
            parts.append("by another name: " + _listed([f"{model}={data}" for model, data in self.other_names.items()]))
        if self.model_only:
            parts.append(f"only in the model, not scored: {_listed(self.model_only)}")
        if self.data_only:
            parts.append(f"only in the data, never detected: {_listed(self.data_only)}")
        if self.model_only and self.data_only:
            parts.append("`map` MODEL=DATA joins two names")
        return "; ".join(parts)


def match_classes(model: Sequence[str], data: Sequence[str], stated: Mapping[str, str] | None = None) -> ClassMatch:
    """Returns which class of a model is which of a data set.

    Args:
        model: The model's class names.
        data: The data set's.
        stated: Name in the model -> name in the data, as the user says; several classes of a model may be one of the
            data.

    Raises:
        InputError: `stated` has a name that does not exist, or two classes of the data are spelled alike.
    """
    stated = stated or {}
    for side, names, given in (("model", model, stated.keys()), ("data", data, stated.values())):
        if unknown := _without(given, names):
            raise InputError(f"`map`: the {side} has no class {unknown[0]!r}; it has {_listed(names)}")
    pairs, other = dict(stated), dict(stated)
    left = _without(data, stated.values())
    for same, is_other in ((str, False), (_spelling, False), (_meaning, True)):
        by_key: dict[str, list[str]] = {}
        for name in left:
            by_key.setdefault(same(name), []).append(name)
        for name in model:
            found = by_key.get(same(name), []) if name not in pairs else []
            if len(found) > 1:
                raise InputError(f"classes {' and '.join(map(repr, found))} of the data are one to edgeq; rename one")
            if found:
                pairs[name] = found[0]
                if is_other:
                    other[name] = found[0]
        left = _without(left, pairs.values())
    model_only = tuple(name for name in model if name not in pairs)
    return ClassMatch({name: pairs[name] for name in model if name in pairs}, other, model_only, tuple(left))


def parse_class_map(texts: Iterable[str]) -> dict[str, str]:
    """Returns the pairs of `MODEL=DATA`.

    Raises:
        InputError: a text has another form, or a name of the model comes twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        model, separator, data = (part.strip() for part in text.partition("="))
        if not (model and separator and data) or model in pairs:
            raise InputError(f"`map` {text!r}: wanted MODEL=DATA, each class of the model once")
        pairs[model] = data
    return pairs


def _without(names: Iterable[str], taken: Iterable[str]) -> list[str]:
    gone = set(taken)
    return [name for name in names if name not in gone]


def _spelling(name: str) -> str:
    return "".join(letter for letter in name.casefold() if letter.isalnum())


def _meaning(name: str) -> str:
    spelled = _spelling(name)
    return _GROUPS.get(spelled, spelled)


_GROUPS = {_spelling(name): _spelling(group[0]) for group in SYNONYMS for name in group}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f", ... ({len(names)})" if len(names) > _SHOWN else "")
