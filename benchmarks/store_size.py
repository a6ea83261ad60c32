"""How large and how fast is a store of a million trials and ten million predictions?

`python -m benchmarks.store_size` fills a store with trials of classifiers of ten classes with ten predictions each, and
another one with predictions of a detector of up to 100 boxes, for their size. Then it times what commands ask of it, in
fresh processes, and how many rows one process and four write as `edgeq tune` does. Ten minutes of one core, and 4 GB of
disk, which it frees at the end.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import multiprocessing
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from benchmarks.cases import cpu_and_threads, write_result
from edgeq.files import sha256_json
from edgeq.machine import read_machine
from edgeq.packing import arrays_to_bytes
from edgeq.tuning import store_tables as tables
from edgeq.tuning.store import Selection, Store, Timing, TrialKey

TRIALS, PER_TRIAL = 1_000_000, 10
IMAGES = 50_000
"""Of all data sets together; ImageNet's validation set has as many."""

DETECTIONS = 20_000
"""Predictions of a detector, from which the size of ten million is extrapolated."""

WRITERS, WRITTEN = 4, 1000
"""Processes that write, and the trials that they write together."""

REPEATS = 2
_BATCH = 32
_TIMED = Timing(2.5, 0.5, 0.48, 0.54, 1000, "OpenVINO 2026.4.0, 1 threads", "AMD EPYC")


def trial_key(index: int) -> TrialKey:
    """Returns the key of one of a million trials: a thousand plans of each of a thousand models."""
    model, plan = divmod(index, 1000)
    return TrialKey(named("model", model), named("plan", plan), named("data"), named("engine"), named("machine"))


@functools.cache
def named(kind: str, number: int = 0) -> str:
    """Returns a digest."""
    return sha256_json([kind, number])


def trial_facts(index: int) -> dict[str, str]:
    """Returns the same in words, as long as those of `edgeq tune`."""
    model, plan = divmod(index, 1000)
    return {
        "model": f"resnet20_{model:04}",
        "plan": f"all in INT8 but layer{plan // 10}.conv{plan % 10}, fc",
        "target": "x86",
        "data": "cifar10",
        "engine": "OpenVINO 2026.4.0, 1 threads",
        "machine": "AMD EPYC 9R14",
    }


def class_scores(rng: np.random.Generator) -> bytes:
    """Returns what a classifier of ten classes says about an image."""
    return arrays_to_bytes({"array": rng.normal(0, 4, 10).astype(np.float32)})


def detections(rng: np.random.Generator) -> bytes:
    """Returns what a detector says about an image: up to 100 boxes of 80 classes."""
    count = int(rng.integers(1, 101))
    return arrays_to_bytes(
        {
            "boxes": rng.uniform(0, 640, (count, 4)).astype(np.float32),
            "scores": np.sort(rng.beta(0.5, 3, count).astype(np.float32))[::-1],
            "classes": rng.integers(0, 80, count),
        }
    )


def fill(path: Path, trials: Sequence[int], per_trial: int, predict: Callable[[np.random.Generator], bytes]) -> None:
    """Adds trials as `edgeq tune` does, each with predictions, two measures and, every tenth, a timing."""
    pool, images = drawn(trials[0], predict), image_digests()
    with Store(path) as store:
        for index in trials:
            number = store.trial(trial_key(index), trial_facts(index))
            store.add_predictions(
                number, {images[image]: pool[(index + image) % len(pool)] for image in chosen(index, per_trial)}
            )
            store.add_measures(number, measures(index))
            if index % 10 == 0:
                store.add_timing(number, _TIMED)


def fill_at_once(path: Path, trials: int) -> None:
    """Adds the same rows as `fill` in one transaction, which takes minutes instead of an hour."""
    Store(path).close()
    pool, images = drawn(0, class_scores), image_digests()
    digests = [bytes.fromhex(trial_key(index).digest) for index in range(trials)]

    def trial_rows() -> Iterator[tuple[object, ...]]:
        for index, digest in enumerate(digests):
            key, facts = trial_key(index), trial_facts(index)
            title = facts.pop(tables.PLAN_FACT)
            if index % 1000 == 0:
                context = tables.context_row((key.model, key.data, key.engine, key.machine), facts)
                connection.execute("INSERT INTO contexts VALUES (?, ?, ?, ?, ?, ?)", context)
            yield index + 1, digest, context[0], tables.compact(key.plan), title, PER_TRIAL, time.time()

    def prediction_rows() -> Iterator[tuple[int, bytes]]:
        for index, digest in enumerate(digests):
            for image in chosen(index, PER_TRIAL):
                content = pool[(index + image) % len(pool)]
                yield tables.span(index + 1)[0] + image + 1, tables.sealed(digest, images[image], content)

    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO images (digest) VALUES (?)", [(tables.compact(each),) for each in images])
        connection.executemany("INSERT INTO trials VALUES (?, ?, ?, ?, ?, ?, ?)", trial_rows())
        connection.executemany("INSERT INTO predictions VALUES (?, ?)", prediction_rows())
        connection.executemany(
            "INSERT INTO measures VALUES (?, ?, ?, ?)",
            (
                (index + 1, name, value, tables.measure_seal(digest, name, value))
                for index, digest in enumerate(digests)
                for name, value in sorted(measures(index).items())
            ),
        )
    with Store(path) as store:
        for index in range(0, trials, 1000):
            store.add_timing(index + 1, _TIMED)


def drawn(seed: int, predict: Callable[[np.random.Generator], bytes]) -> list[bytes]:
    """Returns predictions of which each trial takes some."""
    rng = np.random.default_rng(seed)
    return [predict(rng) for _ in range(997)]


def image_digests() -> list[str]:
    return [sha256_json(["image", number]) for number in range(IMAGES)]


def chosen(index: int, per_trial: int) -> range:
    """Returns the images that a trial has predictions of."""
    begin = index * per_trial % (IMAGES - per_trial)
    return range(begin, begin + per_trial)


def measures(index: int) -> dict[str, float]:
    return {"snr_db": 30 + index % 20 + index / TRIALS, "top1 of 10 images": index % 11 / 10}


def timed(action: Callable[[], object], repeats: int = 1000) -> float:
    """Returns the median time of an action in seconds."""
    seconds = []
    for _ in range(repeats):
        begin = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def cpu_seconds(arguments: Sequence[str], repeats: int = REPEATS) -> float:
    """Returns the CPU time of an `edgeq` command in a fresh process, its start included: the least of several."""
    seconds = []
    for _ in range(repeats):
        begin = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "edgeq", *arguments], check=True, capture_output=True)
        end = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime)
    return min(seconds)


def queries(path: Path, trials: int) -> Iterator[tuple[str, float]]:
    """Yields what is asked of a store, and the median time in seconds."""
    rng = np.random.default_rng(1)
    images = image_digests()
    numbers = iter(rng.integers(1, trials, 10_000).tolist())

    def ask(trial: int) -> None:
        begin = chosen(trial, PER_TRIAL).start
        found = store.predictions(store.trial(trial_key(trial), {}), images[begin : begin + _BATCH])
        assert len(found) == PER_TRIAL

    yield "open", timed(lambda: Store(path).close())
    with Store(path, create=False) as store:
        yield "a trial by its key", timed(lambda: store.trial(trial_key(next(numbers)), {}))
        yield "its predictions of 32 images, ten of which it has", timed(lambda: ask(next(numbers)))
        yield "measures of a trial", timed(lambda: store.measures(next(numbers)))
        yield "on how many images two trials agree", timed(lambda: store.agreement(next(numbers), 1))
        yield "how many trials there are", timed(store.count, 5)
        yield "the newest 50 trials with their measures", timed(lambda: store.rows(Selection(limit=50)), 20)


def commands(path: Path, out: Path, trials: int) -> Iterator[tuple[str, float]]:
    """Yields a command, and its CPU time in seconds."""
    Store(out / "empty.sqlite").close()
    yield "`edgeq runs`, of an empty store", cpu_seconds(["runs", str(out / "empty.sqlite")])
    for options in (
        (),
        ("--model", "resnet20_0001", "--plan", "conv7"),
        ("--sort", "snr_db:desc", "--limit", "10"),
        ("--compare", "7", str(trials // 2)),
    ):
        yield f"`{' '.join(['edgeq runs', *options])}`", cpu_seconds(["runs", str(path), *options])
    one = ["--model", "resnet20_0001", "--csv", str(out / "one.csv")]
    yield "`edgeq runs --csv` of one model", cpu_seconds(["runs", str(path), *one])
    yield "`edgeq runs --csv` of all", cpu_seconds(["runs", str(path), "--csv", str(out / "all.csv")], 1)


def writers_rate(folder: Path, count: int, trials: int) -> float:
    """Returns how many rows of predictions so many processes write in a second, each with trials of its own."""
    path = folder / f"writers_{count}.sqlite"
    Store(path).close()
    context = multiprocessing.get_context("fork")
    parts = [range(number * trials, (number + 1) * trials) for number in range(count)]
    processes = [context.Process(target=fill, args=(path, part, _BATCH, class_scores)) for part in parts]
    begin = time.perf_counter()
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    seconds = time.perf_counter() - begin
    with Store(path) as store:
        assert store.count() == count * trials
    return count * trials * _BATCH / seconds


def table_sizes(path: Path) -> list[str]:
    """Returns a line for each table, with its indexes."""
    with sqlite3.connect(path) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return [
            f"| {name} | {connection.execute(f'SELECT COUNT(*) FROM {name}').fetchone()[0]:,} |"  # noqa: S608 - ours
            for name in tables
        ]


def megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


def measure(folder: Path, trials: int) -> list[str]:
    """Returns the page."""
    path, other = folder / "trials.sqlite", folder / "detector.sqlite"
    begin = time.process_time()
    fill_at_once(path, trials)
    filled_s, size = time.process_time() - begin, megabytes(path)
    lines = [
        "# A store of a million trials and ten million predictions",
        "",
        f"{trials:,} trials of classifiers with ten classes, each with predictions of {PER_TRIAL} of {IMAGES:,} "
        f"images, two measures and, every thousandth, a timing; filled in one transaction in {filled_s / 60:.1f} CPU "
        f"minutes. The file takes {size:,.0f} MB.",
        "",
        "| table | rows |",
        "|---|---:|",
        *table_sizes(path),
        "",
        "| what is asked | median time |",
        "|---|---:|",
        *(f"| {title} | {shown_time(seconds)} |" for title, seconds in queries(path, trials)),
        "",
        "| command | CPU time |",
        "|---|---:|",
        *(f"| {title} | {shown_time(seconds)} |" for title, seconds in commands(path, folder, trials)),
        "",
    ]
    per_detection = detector_bytes(other)
    lines += [
        f"A detector's prediction (1 to 100 boxes, 50 on average) takes {per_detection:,.0f} bytes in the file, "
        f"measured on {DETECTIONS:,}; ten million would take {per_detection / 100:,.1f} GB.",
        "",
        "| processes that write, 32 predictions per transaction | predictions per second |",
        "|---|---:|",
        *(f"| {count} | {writers_rate(folder, count, WRITTEN // count):,.0f} |" for count in (1, WRITERS)),
        "",
        f"Measured on {cpu_and_threads(read_machine(), 1)} with SQLite {sqlite3.sqlite_version} and Python "
        f"{sys.version.split()[0]}. Other programs kept the CPU busy, so commands, which start a process "
        "each, are stated by their CPU time, the least of two runs; the CSV of all was written once.",
    ]
    return lines


def detector_bytes(path: Path) -> float:
    """Returns how many bytes a prediction of a detector takes."""
    per_trial = 2000
    fill(path, range(DETECTIONS // per_trial), per_trial, detections)
    return path.stat().st_size / DETECTIONS


def shown_time(seconds: float) -> str:
    return f"{seconds:,.1f} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def run(work: Path | None, out: Path, trials: int = TRIALS) -> Path:
    """Returns the result file.

    Args:
        work: Folder for the stores, which are removed; by default the system's one for temporary files.
        out: Folder of the result file.
        trials: How many trials the store has.
    """
    with tempfile.TemporaryDirectory(prefix="edgeq-", dir=work) as folder:
        lines = measure(Path(folder), trials)
    return write_result(out, "store_size.md", "\n".join(lines) + "\n")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder for the stores, by default a temporary one")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    return parser


def main() -> None:
    arguments = make_parser().parse_args()
    run(arguments.work, arguments.out, arguments.trials)


if __name__ == "__main__":
    main()
