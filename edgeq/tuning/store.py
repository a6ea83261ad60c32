"""The store of trials: one SQLite file that many processes read and write.

A trial is known by what its results depend on, as digests: model, plan, data, engine and class of machine. Of each
trial it holds predictions per image, which may be of some images only, measures (scores, noise) and timings. Rows are
only ever added; of two processes that add the same row the first one counts, because both have computed the same. The
file is in WAL mode: readers do not wait for a writer, and a kill leaves every finished transaction.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from itertools import islice
from typing import Any

from edgeq.files import sha256_json
from edgeq.tuning import store_tables as tables
from edgeq.tuning.store_file import PARAMETERS, StoreFile


@dataclass(frozen=True)
class TrialKey:
    """What the results of a trial depend on, each as a digest.

    Attributes:
        model: The float graph and its pre- and post-processing.
        plan: Which layers run in INT8, on which grids, for which target.
        data: The images.
        engine: The engine with its version and settings.
        machine: The class of machine: what decides which kernels an engine takes.
    """

    model: str
    plan: str
    data: str
    engine: str
    machine: str

    @property
    def digest(self) -> str:
        """Identifies the trial."""
        return sha256_json(astuple(self))


@dataclass(frozen=True)
class Timing:
    """How long the file of a trial takes for one input, measured on one machine.

    Attributes:
        median_ms: Median of the timed runs in ms.
        ratio: Median time over that of the float file, which took turns with it; `None` if that was not timed.
        ratio_low: Lower end of the ratio's 95 % interval.
        ratio_high: Its upper end.
        runs: Number of timed runs.
        engine: The engine with its version and threads, in words.
        machine: The machine, in words.
    """

    median_ms: float
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    runs: int
    engine: str
    machine: str


@dataclass(frozen=True)
class TrialRow:
    """What a store knows of a trial.

    Attributes:
        number: Its number in the store.
        key: What it depends on.
        facts: The same in words: name of the model, plan, data, engine, machine.
        images: How many images have a prediction.
        measures: Name of a measure -> its value.
        timing: The newest timing, if there is one.
        made_s: When it was entered, in seconds since 1970.
    """

    number: int
    key: TrialKey
    facts: Mapping[str, str]
    images: int
    measures: Mapping[str, float]
    timing: Timing | None
    made_s: float


@dataclass(frozen=True)
class Selection:
    """Which trials are asked for.

    Attributes:
        model: Part of the name of their model, in any case.
        plan: Part of their plan in words, in any case.
        sort: Measure to order by, the smallest first, or `ms` for the newest timing's median; trials without it are
            left out. By default the oldest is first.
        descending: Whether the largest is first.
        limit: The most trials: the first ones by `sort`, otherwise the newest. By default all.
    """

    model: str = ""
    plan: str = ""
    sort: str | None = None
    descending: bool = False
    limit: int | None = None


ALL = Selection()
TIME = "ms"
_TIMING = ", ".join(field.name for field in fields(Timing))


class Store(StoreFile):
    """A store of trials; to be used by one thread, and by any number of processes with a `Store` each.

    Every method raises `InputError` if the file is damaged, the disk is full, or other processes write for too long.
    """

    # One trial -----------------------------------------------------------------------------------------------------

    def trial(self, key: TrialKey, facts: Mapping[str, str]) -> int:
        """Returns the number of a trial, which is entered if it is new.

        Args:
            key: What it depends on.
            facts: The same in words.
        """
        digest = bytes.fromhex(key.digest)
        with self._said():
            known = self._number(digest)
        if known is not None:
            return known
        others = {name: value for name, value in facts.items() if name != tables.PLAN_FACT}
        context = tables.context_row((key.model, key.data, key.engine, key.machine), others)
        with self._transaction() as connection:
            if (known := self._number(digest)) is not None:  # another process has entered it in the meantime
                return known
            connection.execute("INSERT OR IGNORE INTO contexts VALUES (?, ?, ?, ?, ?, ?)", context)
            number = self._unused_number()
            row = (number, digest, context[0], tables.compact(key.plan), facts.get(tables.PLAN_FACT), time.time())
            connection.execute("INSERT INTO trials VALUES (?, ?, ?, ?, ?, 0, ?)", row)
            return number

    def has(self, key: TrialKey) -> bool:
        """Returns whether there is a trial, which is not entered if it is new."""
        with self._said():
            return self._number(bytes.fromhex(key.digest)) is not None

    def predictions(self, trial: int, images: Collection[str]) -> dict[str, bytes]:
        """Returns image -> its prediction, of those of the images that have one.

        Args:
            trial: Number of the trial.
            images: Digests of the images.
        """
        with self._said():
            digest, numbers = self._digest(trial), self._images(images)
            names = {(trial << tables.IMAGE_BITS) + number: image for image, number in numbers.items()}
            rows = self._each("SELECT id, content FROM predictions WHERE id IN ({})", list(names))
            found = ((names[number], tables.unsealed(digest, names[number], content)) for number, content in rows)
            return {image: content for image, content in found if content is not None}

    def add_predictions(self, trial: int, predictions: Mapping[str, bytes]) -> None:
        """Keeps what a trial says about images, all or nothing; what is known already stays, unless it is damaged.

        Args:
            trial: Number of the trial.
            predictions: Digest of an image -> its prediction.
        """
        with self._transaction() as connection:
            numbers, digest = self._images(predictions), self._digest(trial)
            missing = [image for image in predictions if image not in numbers]
            connection.executemany(
                "INSERT INTO images (digest) VALUES (?)", [(tables.compact(each),) for each in missing]
            )
            numbers |= self._images(missing)
            rows = {(trial << tables.IMAGE_BITS) + numbers[image]: image for image in predictions}
            known = dict(self._each("SELECT id, content FROM predictions WHERE id IN ({})", list(rows)))
            new = [
                (number, tables.sealed(digest, image, predictions[image]))
                for number, image in rows.items()
                if number not in known or tables.unsealed(digest, image, known[number]) is None
            ]
            connection.executemany("INSERT OR REPLACE INTO predictions VALUES (?, ?)", new)
            connection.execute("UPDATE trials SET images = images + ? WHERE id = ?", (len(rows) - len(known), trial))

    def measures(self, trial: int) -> dict[str, float]:
        """Returns name -> value of what was measured of a trial."""
        with self._said():
            rows = self._connection.execute("SELECT name, value, seal FROM measures WHERE trial = ?", (trial,))
            return sound_measures(self._digest(trial), rows)

    def add_measures(self, trial: int, measures: Mapping[str, float]) -> None:
        """Keeps what was measured of a trial, all or nothing; what is known already stays, unless it is damaged."""
        with self._transaction() as connection:
            digest, known = self._digest(trial), self.measures(trial)
            rows = [
                (trial, name, value, tables.measure_seal(digest, name, value))
                for name, value in measures.items()
                if name not in known
            ]
            connection.executemany("INSERT OR REPLACE INTO measures VALUES (?, ?, ?, ?)", rows)

    def timing(self, trial: int, machine: str | None = None, engine: str | None = None) -> Timing | None:
        """Returns the newest timing of a trial, if there is one.

        Args:
            trial: Number of the trial.
            machine: Only what was measured there counts; by default whatever was measured.
            engine: Only what was measured in it counts; by default whatever was measured.
        """
        with self._said():
            rows = self._connection.execute(
                f"SELECT {_TIMING}, seal FROM timings WHERE trial = ? ORDER BY id DESC",  # noqa: S608 - ours
                (trial,),
            ).fetchall()
            digest = self._digest(trial)
        found = (sound_timing(digest, row) for row in rows)
        wanted = (each for each in found if each and machine in (None, each.machine) and engine in (None, each.engine))
        return next(wanted, None)

    def add_timing(self, trial: int, timing: Timing) -> None:
        """Keeps how long the file of a trial takes; what was measured before stays, too."""
        with self._transaction() as connection:
            row = (trial, *astuple(timing), _timing_seal(self._digest(trial), timing), time.time())
            connection.execute(
                f"INSERT INTO timings (trial, {_TIMING}, seal, made_s) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 - ours
                row,
            )

    # Many trials ---------------------------------------------------------------------------------------------------

    def count(self) -> int:
        """Returns how many trials there are."""
        with self._said():
            return int(self._connection.execute("SELECT COUNT(*) FROM trials").fetchone()[0])

    def rows(self, selection: Selection = ALL) -> list[TrialRow]:
        """Returns trials."""
        return [row for batch in self.batches(selection) for row in batch]

    def batches(self, selection: Selection = ALL) -> Iterator[list[TrialRow]]:
        """Yields trials a few at a time, so that those of a large store need little memory."""
        with self._said():
            numbers = iter(self._selected(selection))
            while part := list(islice(numbers, PARAMETERS)):
                found = self._rows(part)
                yield [found[number] for number in part if number in found]

    def find(self, numbers: Collection[int]) -> dict[int, TrialRow]:
        """Returns number -> trial, of those of at most 500 numbers that there are."""
        with self._said():
            return self._rows(list(numbers))

    def measure_names(self) -> list[str]:
        """Returns the names of all measures in alphabetical order."""
        with self._said():
            return [name for (name,) in self._connection.execute("SELECT DISTINCT name FROM measures ORDER BY name")]

    def fact_names(self) -> list[str]:
        """Returns the names of all facts in alphabetical order."""
        with self._said():
            texts = self._connection.execute("SELECT facts FROM contexts").fetchall()
            titled = self._connection.execute("SELECT 1 FROM trials WHERE title IS NOT NULL LIMIT 1").fetchone()
        return sorted(
            {name for (text,) in texts for name in tables.parse_facts(text)} | ({"plan"} if titled else set())
        )

    def agreement(self, one: int, other: int) -> tuple[int, int]:
        """Returns on how many images two trials have a prediction both, and on how many of them it is the same."""
        begin, end = tables.span(one)
        with self._said():
            found = self._connection.execute(
                "SELECT COUNT(*), COALESCE(SUM(SUBSTR(a.content, 5) = SUBSTR(b.content, 5)), 0) FROM predictions a "
                "JOIN predictions b ON b.id = a.id + ? WHERE a.id BETWEEN ? AND ?",
                (other - one << tables.IMAGE_BITS, begin, end),
            ).fetchone()
            return int(found[0]), int(found[1])

    # Queries -------------------------------------------------------------------------------------------------------

    def _selected(self, selection: Selection) -> list[int]:
        """Returns the numbers of the trials of a selection in its order."""
        tests, values = [], list[Any]()
        if selection.model:
            tests.append("context IN (SELECT id FROM contexts WHERE has_model(facts, ?))")
            values.append(selection.model.lower())
        if selection.plan:
            tests.append("INSTR(LOWER(title), ?)")
            values.append(selection.plan.lower())
        where = f"WHERE {' AND '.join(tests)}" if tests else ""
        table, order = "trials", "id DESC"
        if selection.sort is not None:
            newest = "SELECT MAX(id), trial AS of, median_ms AS value FROM timings GROUP BY trial"
            named = "SELECT trial AS of, value FROM measures WHERE name = ?"
            table = f"trials JOIN ({newest if selection.sort == TIME else named}) ON of = trials.id"
            order = f"value {'DESC' if selection.descending else 'ASC'}, trials.id"
            values = values if selection.sort == TIME else [selection.sort, *values]
        rows = self._connection.execute(
            f"SELECT trials.id FROM {table} {where} ORDER BY {order} LIMIT ?",  # noqa: S608 - ours
            (*values, -1 if selection.limit is None else selection.limit),
        ).fetchall()
        numbers = [number for (number,) in rows]
        return numbers if selection.sort is not None else numbers[::-1]

    def _rows(self, numbers: Sequence[int]) -> dict[int, TrialRow]:
        trials = self._each(
            "SELECT t.id, t.digest, c.model, t.plan, c.data, c.engine, c.machine, c.facts, t.title, t.images, t.made_s "
            "FROM trials t LEFT JOIN contexts c ON c.id = t.context WHERE t.id IN ({})",
            numbers,
        )
        measures: dict[int, list[Any]] = {}
        for trial, *row in self._each("SELECT trial, name, value, seal FROM measures WHERE trial IN ({})", numbers):
            measures.setdefault(trial, []).append(row)
        timings: dict[int, list[Any]] = {}
        query = f"SELECT trial, {_TIMING}, seal FROM timings WHERE trial IN ({{}}) ORDER BY id"  # noqa: S608 - ours
        for trial, *row in self._each(query, numbers):
            timings.setdefault(trial, []).append(row)
        found = {}
        for number, stored, *keys, facts, title, images, made_s in trials:
            digest = tables.as_digest(stored)
            said = tables.parse_facts(facts) | ({} if title is None else {tables.PLAN_FACT: title})
            sound = [timing for row in timings.get(number, ()) if (timing := sound_timing(digest, row))]
            found[number] = TrialRow(
                number,
                TrialKey(*map(tables.expand, keys)),
                dict(sorted(said.items())),
                images,
                sound_measures(digest, measures.get(number, ())),
                sound[-1] if sound else None,
                made_s,
            )
        return found

    def _number(self, digest: bytes) -> int | None:
        row = self._connection.execute("SELECT id FROM trials WHERE digest = ?", (digest,)).fetchone()
        return None if row is None else int(row[0])

    def _unused_number(self) -> int:
        """Returns a number for a trial that no row names: what is salvaged may have rows of a trial that is lost."""
        used = self._connection.execute(
            f"SELECT (SELECT MAX(id) FROM trials), (SELECT MAX(id) >> {tables.IMAGE_BITS} FROM predictions), "  # noqa: S608 - ours
            "(SELECT MAX(trial) FROM measures), (SELECT MAX(trial) FROM timings)"
        ).fetchone()
        return 1 + max(number or 0 for number in used)

    def _digest(self, trial: int) -> bytes:
        """Returns the digest of a trial, with which its rows are sealed."""
        row = self._connection.execute("SELECT digest FROM trials WHERE id = ?", (trial,)).fetchone()
        return tables.as_digest(row and row[0])

    def _images(self, images: Collection[str]) -> dict[str, int]:
        """Returns image -> its number, of those that have one."""
        rows = self._each(
            "SELECT digest, id FROM images WHERE digest IN ({})", [tables.compact(each) for each in images]
        )
        if any(number is None for _, number in rows):
            raise tables.DamagedError("an image has no number")
        return {tables.expand(digest): number for digest, number in rows}


def sound_measures(trial: bytes, rows: Any) -> dict[str, float]:
    """Returns name -> value of the rows whose seal is whole."""
    return {
        name: float(value)
        for name, value, stated in rows
        if isinstance(name, str) and isinstance(value, float) and stated == tables.measure_seal(trial, name, value)
    }


def _timing_seal(trial: bytes, timing: Timing) -> int:
    return tables.seal(trial, repr(astuple(timing)).encode())


def sound_timing(trial: bytes, row: Sequence[Any]) -> Timing | None:
    """Returns the timing of a row, if its seal is whole."""
    timing = Timing(*row[:-1])
    return timing if row[-1] == _timing_seal(trial, timing) else None
