"""How fast a search would be on more workers than there are here: a simulation of events from measured costs.

It follows `edgeq.tuning`: the main process writes files and takes answers, one thing at a time; trials are scored in
groups of two per worker, stage by stage; a stage is split if workers would wait; a worker takes what it has the file
of, or else what nobody has; it is sent what it lacks, opens the file and predicts its images.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from edgeq.tuning.work_units import split_evenly

KEPT_FILES = 4
"""Model files that a worker keeps."""


@dataclass(frozen=True)
class Costs:
    """What steps take, in seconds.

    Attributes:
        write_s: The main process writes a file.
        take_s: It takes the answers of a trial's stage: keeps them in the store, and decides.
        open_s: A worker opens a file.
        image_s: A worker predicts an image.
        file_bytes: Size of a file.
        image_bytes: Size of an image.
        bytes_per_s: What the main process sends in a second, to all workers together; `inf` if files are on a disk of
            all.
    """

    write_s: float
    take_s: float
    open_s: float
    image_s: float
    file_bytes: int
    image_bytes: int
    bytes_per_s: float


@dataclass
class Outcome:
    """How a simulated search went.

    Attributes:
        seconds: How long it took.
        main_s: How long the main process worked.
        sending_s: How long the network was busy.
        workers_s: How long all workers worked, added up.
    """

    seconds: float = 0.0
    main_s: float = 0.0
    sending_s: float = 0.0
    workers_s: float = 0.0


class Simulation:
    """A search in which every trial is scored on every image.

    Args:
        costs: What steps take.
        trials: How many trials.
        stages: Images of each stage.
        workers: How many workers.
    """

    def __init__(self, costs: Costs, trials: int, stages: Sequence[int], workers: int) -> None:
        self._costs = costs
        self._trials = trials
        self._stages = stages
        self._workers = workers
        self._has_images: list[set[tuple[int, int]]] = [set() for _ in range(workers)]
        self._has_files: list[deque[int]] = [deque(maxlen=KEPT_FILES) for _ in range(workers)]
        self._owners: dict[int, int] = {}
        self._outcome = Outcome()
        self._network_s = 0.0

    def run(self) -> Outcome:
        """Returns how it went."""
        now, group = 0.0, 2 * self._workers
        for begin in range(0, self._trials, group):
            together = min(group, self._trials - begin)
            for stage, images in enumerate(self._stages):
                now = self._run_stage(now, range(begin, begin + together), stage, images)
        self._outcome.seconds = now
        return self._outcome

    def _run_stage(self, begin_s: float, trials: Sequence[int], stage: int, images: int) -> float:
        """Returns when a stage of some trials is decided."""
        costs, outcome = self._costs, self._outcome
        parts = [part for part in split_evenly(range(images), len(trials), self._workers) if part]
        left = dict.fromkeys(trials, len(parts))
        units = deque((trial, part) for trial in trials for part in range(len(parts)))
        waiting: deque[tuple[float, int, int]] = deque()
        free = [(begin_s, worker) for worker in range(self._workers)]
        heapq.heapify(free)
        done: list[tuple[float, int]] = []
        written: set[int] = set()
        now = begin_s
        while units or waiting or done:
            while waiting and free and free[0][0] <= now:  # workers take what waits
                free_s, worker = heapq.heappop(free)
                ready_s, trial, part = self._taken(waiting, worker)
                end_s = self._work(worker, max(ready_s, free_s), trial, stage, part, len(parts[part]))
                heapq.heappush(free, (end_s, worker))
                heapq.heappush(done, (end_s, trial))
            if units and len(waiting) < self._workers:  # the main process makes more work first
                trial, part = units.popleft()
                spent = costs.write_s if trial not in written and stage == 0 else 0.0
                written.add(trial)
                now += spent
                outcome.main_s += spent
                waiting.append((now, trial, part))
            elif done and done[0][0] <= now:  # then it takes answers
                _, trial = heapq.heappop(done)
                left[trial] -= 1
                spent = 0.0 if left[trial] else costs.take_s
                now += spent
                outcome.main_s += spent
            else:  # and else it waits
                coming = [done[0][0]] if done else []
                coming += [free[0][0]] if waiting and free else []
                now = max(now, min(coming))
        return now

    def _taken(self, waiting: deque[tuple[float, int, int]], worker: int) -> tuple[float, int, int]:
        """Returns what a worker takes of the units that wait, as `edgeq.tuning.executors` has it."""
        owners = [self._owners.get(trial) for _, trial, _ in waiting]
        best = min(range(len(owners)), key=lambda index: (owners[index] != worker, owners[index] is not None))
        found = waiting[best]
        del waiting[best]
        self._owners[found[1]] = worker
        return found

    def _work(self, worker: int, begin_s: float, trial: int, stage: int, part: int, images: int) -> float:
        """Returns when a worker has done a unit."""
        costs, outcome = self._costs, self._outcome
        files, size = self._has_files[worker], 0
        if trial in files:
            files.remove(trial)
        else:
            size += costs.file_bytes
        files.append(trial)
        if (stage, part) not in self._has_images[worker]:
            self._has_images[worker].add((stage, part))
            size += images * costs.image_bytes
        sending_s = size / costs.bytes_per_s
        self._network_s = max(self._network_s, begin_s) + sending_s
        end_s = (self._network_s if sending_s else begin_s) + costs.open_s + images * costs.image_s
        outcome.sending_s += sending_s
        outcome.workers_s += end_s - begin_s
        return end_s
