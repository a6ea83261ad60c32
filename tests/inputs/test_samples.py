"""The loop that reads, prepares, looks ahead and skips."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgeq.errors import InputError
from edgeq.inputs import ImageFile, InputCache, UnreadableImages, prepared_samples


@dataclass
class _Item:
    name: str
    reads: list[str]

    def digest(self) -> str:
        return self.name.upper()

    def read(self) -> Any:
        self.reads.append(self.name)
        if self.name == "broken":
            raise InputError("broken: is no image")
        return np.array([ord(self.name)])


def run(names: list[str], **options: Any) -> tuple[list[Any], list[str], int, list[tuple[int, str]]]:
    """Returns the samples, the items that were read, how many are done, and those that were skipped."""
    reads: list[str] = []
    skipped: list[tuple[int, str]] = []
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count

    with ThreadPoolExecutor(2) as pool:
        samples = list(
            prepared_samples(
                [_Item(name, reads) for name in names],
                lambda position, item, content: (position, item.name, int(content[0])),
                pool=pool,
                ahead=2,
                on_unreadable=lambda position, item, error: skipped.append((position, f"{item.name}: {error}")),
                advance=advance,
                **options,
            )
        )
    return samples, sorted(reads), done, skipped


def test_samples_come_in_order_and_what_cannot_be_read_is_skipped():
    samples, _, done, skipped = run(["a", "broken", "c", "d", "e"])
    assert [(sample.position, sample.name, sample.digest) for sample in samples] == [
        (0, "a", ""), (2, "c", ""), (3, "d", ""), (4, "e", ""),
    ]  # fmt: skip
    assert [sample.prepared for sample in samples] == [(0, "a", 97), (2, "c", 99), (3, "d", 100), (4, "e", 101)]
    assert skipped == [(1, "broken: broken: is no image")]
    assert done == 5


def test_what_is_known_is_not_read():
    samples, reads, done, _ = run(["a", "b", "c"], known={"B"})
    assert [(sample.position, sample.digest) for sample in samples] == [(0, "A"), (2, "C")]
    assert reads == ["a", "c"]
    assert done == 3


class _Cache:
    def __init__(self) -> None:
        self._inputs = InputCache(2)

    def get(self, position: int) -> Any:
        return self._inputs.get(position)

    def put(self, position: int, prepared: Any) -> None:
        self._inputs.put(position, prepared, 1)


def test_what_is_kept_is_not_read_again():
    cache = _Cache()
    first = run(["a", "broken", "c", "d"], cache=cache)
    second = run(["a", "broken", "c", "d"], cache=cache)
    assert second[0] == first[0]
    assert len(second[1]) == 2  # the broken one, and the one that did not fit
    assert "broken" in second[1]


def test_what_preparing_raises_ends_the_loop():
    def refuse(position: int, item: Any, content: np.ndarray) -> None:
        raise InputError("not the image that is meant")

    with ThreadPoolExecutor(1) as pool, pytest.raises(InputError, match="not the image that is meant"):
        list(prepared_samples([_Item("a", [])], refuse, pool=pool, ahead=2, on_unreadable=lambda *_: None))


def test_the_next_samples_are_prepared_while_the_caller_works():
    reads: list[str] = []
    ready = threading.Semaphore(0)

    def prepare(position: int, item: Any, content: np.ndarray) -> int:
        ready.release()
        return position

    with ThreadPoolExecutor(1) as pool:
        items = [_Item(name, reads) for name in "abcdef"]
        samples = prepared_samples(items, prepare, pool=pool, ahead=2, on_unreadable=lambda *_: None)
        next(samples)
        for _ in range(3):
            assert ready.acquire(timeout=10)
        assert reads == ["a", "b", "c"]
        assert [sample.prepared for sample in samples] == [1, 2, 3, 4, 5]


def test_up_to_five_percent_may_be_unreadable(caplog):
    unreadable = UnreadableImages(40)
    for index in range(2):
        path = Path(f"{index}.jpg")
        unreadable.add(index, ImageFile(path), InputError(f"{path}: is broken"))
    assert unreadable.errors == {Path("0.jpg"): "0.jpg: is broken", Path("1.jpg"): "1.jpg: is broken"}
    assert "skipped: 1.jpg: is broken" in caplog.text
    with pytest.raises(InputError, match=r"3 of 40 images cannot be read, more than 5%.*2\.jpg: is broken"):
        unreadable.add(2, ImageFile(Path("2.jpg")), InputError("2.jpg: is broken"))
