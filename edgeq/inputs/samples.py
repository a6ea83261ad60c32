"""The one loop that reads, prepares and looks ahead, and that skips images which cannot be read."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import numpy as np

from edgeq.errors import InputError
from edgeq.inputs.items import Item, Items
from edgeq.progress import Advance

Prepared = TypeVar("Prepared")
Entry = TypeVar("Entry")
Result = TypeVar("Result")

MAX_UNREADABLE = 0.05
"""Share of the images that may be unreadable before a job refuses to continue."""

Prepare = Callable[[int, Item, np.ndarray], Prepared]
"""Called ahead, in another thread: position of the item, the item and what it holds -> what the engine takes."""

OnUnreadable = Callable[[int, Item, InputError], None]
"""Told the position of an item that is skipped, the item, and why."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sample(Generic[Prepared]):
    """An item that is ready for the engine.

    Attributes:
        position: Its position among the items.
        name: The item's name.
        digest: SHA-256 of its content; empty if the loop does not compute digests.
        prepared: What the engine takes.
    """

    position: int
    name: str
    digest: str
    prepared: Prepared


class PreparedCache(Protocol[Prepared]):
    """Keeps what was prepared for a next pass over the same items; for several threads."""

    def get(self, position: int) -> Prepared | None:
        """Returns what is kept for an item, if anything."""

    def put(self, position: int, prepared: Prepared) -> None:
        """Keeps something for an item, or not."""


def prepared_samples(
    items: Items,
    prepare: Prepare[Prepared],
    *,
    pool: Executor,
    ahead: int,
    on_unreadable: OnUnreadable,
    advance: Advance = lambda _count: None,
    known: Container[str] | None = None,
    cache: PreparedCache[Prepared] | None = None,
) -> Iterator[Sample[Prepared]]:
    """Yields the samples of items in order, reading and preparing the next ones while the caller works.

    Elements of an iterable are drawn in the caller's thread. A sample counts as done when the next one is asked for.

    Args:
        items: What to read.
        prepare: Makes of an item's content what the engine takes. What it raises ends the loop.
        pool: Threads that read and prepare.
        ahead: How many samples are prepared ahead.
        on_unreadable: Told of every item that cannot be read. What it raises ends the loop.
        advance: Told of every item that is done, also of those that are skipped.
        known: Digests of items that need no preparing and are not yielded; `None` computes no digests.
        cache: What an earlier pass over the same items has kept; items in it are not read.
    """

    def work(numbered: tuple[int, Item]) -> tuple[Item, Sample[Prepared] | InputError | None]:
        position, item = numbered
        kept = None if cache is None else cache.get(position)
        if kept is not None:
            return item, Sample(position, item.name, "", kept)
        try:
            digest = "" if known is None else item.digest()
            if known is not None and digest in known:
                return item, None
            content = item.read()
            if known is not None and item.digest() != digest:
                raise InputError(f"{item.name}: changed while it was read; give images that stay as they are")
        except InputError as error:
            return item, error
        prepared = prepare(position, item, content)
        if cache is not None:
            cache.put(position, prepared)
        return item, Sample(position, item.name, digest, prepared)

    for position, (item, outcome) in enumerate(_work_ahead(pool, enumerate(items), work, ahead)):
        if isinstance(outcome, InputError):
            on_unreadable(position, item, outcome)
        elif outcome is not None:
            yield outcome
        advance(1)


class UnreadableImages:
    """Warns of the unreadable images of a job, and ends the job if they are too many of its images.

    Args:
        total: Images of the whole job.
        most: The share of them that may be unreadable.

    Attributes:
        errors: Path -> what is wrong with it.
    """

    def __init__(self, total: int, most: float = MAX_UNREADABLE) -> None:
        self.errors: dict[Path, str] = {}
        self._total = total
        self._most = most

    def add(self, _position: int, item: Item, error: InputError) -> None:
        """Notes an image that is skipped.

        Raises:
            InputError: with this one they are too many.
        """
        _log.warning("skipped: %s", error)
        self.errors[Path(item.name)] = str(error)
        if len(self.errors) > self._most * self._total:
            raise InputError(
                f"{len(self.errors)} of {self._total} images cannot be read, more than {self._most:.0%}; "
                f"the last one: {error}"
            ) from error


def _work_ahead(
    pool: Executor, entries: Iterable[Entry], work: Callable[[Entry], Result], depth: int
) -> Iterator[Result]:
    """Yields `work(entry)` of every entry in order, `depth` of them computed ahead in the pool."""
    pending: deque[Future[Result]] = deque()
    for entry in entries:
        pending.append(pool.submit(work, entry))
        if len(pending) > depth:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()
