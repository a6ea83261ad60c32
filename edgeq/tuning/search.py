"""The best file for a budget: the front of an additive model, scored for real by successive halving, then timed.

1. The float file is scored on all images: what it says is what others are compared with.
2. Recipes (methods of ranges, repairs) are ranked by the noise that they leave with all layers in INT8.
3. Each group is screened alone in INT8. With the costs of layers that makes the additive model, whose exact front
   (`edgeq.tuning.front`) gives the candidates: for ever more time the precisions with the least noise.
4. They are scored by successive halving (`edgeq.tuning.search_halving`), and with them what `edgeq export` writes.
5. What is left is measured in turns with FP32 (`edgeq.tuning.search_latency`), and the best within the budget is taken.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgeq.errors import InputError
from edgeq.progress import progress_bar
from edgeq.results.sensitivity import ScoreChange
from edgeq.results.tuning import TunedLatency
from edgeq.tuning.candidate import FLOAT, INT8, Candidate, Recipe
from edgeq.tuning.front import Cost, Problem, Solver
from edgeq.tuning.scoring import Scoring
from edgeq.tuning.search_choice import SearchOptions, Tried
from edgeq.tuning.search_costs import LayerCosts, additive_problem
from edgeq.tuning.search_halving import Contender, halve
from edgeq.tuning.search_latency import Measured, measured
from edgeq.tuning.timing_site import TimingSite
from edgeq.tuning.trials import Subject

METHODS = ("lp", "mse", "percentile", "minmax")
"""Methods of ranges that a search tries: one calibration gives all of them."""

STEPS = 5
"""Amounts of time, and of noise, for which the front is looked at."""

_AROUND = (1.0, 0.85)
"""Parts of a limit of time that files are looked for at: expected times are off by some percent."""

_RECIPES = 2
"""How many recipes the candidates are made with, those with the least noise."""

FP32, DEFAULT, ALL_INT8 = "fp32", "default", "all int8"


@dataclass(frozen=True, eq=False)
class Search:
    """One run.

    Attributes:
        scoring: Scores trials.
        options: What is looked for.
        costs: What layers cost.
        default: What `edgeq export` writes.
        site: Where files are timed.
    """

    scoring: Scoring
    options: SearchOptions
    costs: LayerCosts
    default: Candidate
    site: TimingSite

    @property
    def subject(self) -> Subject:
        """What candidates are made from."""
        return self.scoring.subject

    def run(self) -> tuple[list[Tried], bool]:
        """Returns all files that were tried, FP32 first, and whether the search was done before the deadline."""
        scoring, options = self.scoring, self.options
        scoring.task.check(scoring.float_file)
        self._score_float()
        contenders = self._contenders()
        self._check_size(contenders)
        done = halve(scoring, contenders[1:], options.budget.max_drop, options.deadline)
        left = [each for each in contenders if not each.dropped and each.change is not None]
        if options.deadline.is_over and not options.budget.needs_measuring:
            left = []
        files = [(each.trial, each.artifact) for each in left]
        taken = measured(scoring, self.site, files, options.budget) if left else []
        known = dict(zip([each.name for each in left], taken, strict=True))
        return [self._tried(each, known.get(each.name)) for each in contenders], done

    def _score_float(self) -> None:
        scoring = self.scoring
        value = scoring.score(scoring.trial(Candidate()), scoring.float_predictions, is_reference=True)
        score = scoring.task.score_type
        if not score.lower_is_better and value <= 0:
            raise InputError(
                f"{self.subject.model.name}: its {score.main} is {value:g} in FP32, so INT8 has nothing to lose; check "
                "its weights, `preset` and data with `edgeq eval` first"
            )

    # Candidates -------------------------------------------------------------------------------------------------------

    @cached_property
    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes with the least noise, the best first."""
        ranges, found = self.subject.ranges, dict[Recipe, float]()
        methods = [None, *(each for each in METHODS if ranges.histograms and each != ranges.method)]
        corrections = (False, True) if ranges.samples else (False,)
        tried = [
            Recipe(method, rescale, corrects)
            for rescale in (None, *self.subject.rescaled)
            for method in methods
            for corrects in corrections
        ]
        with progress_bar(len(tried), "screening recipes", unit="recipes") as advance:
            for recipe in tried:
                if found and self.options.deadline.is_over:
                    break
                found[recipe] = -self.scoring.noise(self.subject.of_groups(self.subject.groups, recipe)).snr_db
                advance(1)
        return tuple(sorted(found, key=lambda recipe: found[recipe])[:_RECIPES])

    @cached_property
    def shares(self) -> dict[str, float]:
        """Name of a group -> its part of the noise of the file with all groups in INT8, of those that were screened.

        Biases are not corrected here, which leaves the parts much the same, and is what `--sensitivity` screens too.
        """
        recipe = dataclasses.replace(self.recipes[0], corrects_biases=False)
        groups, found = self.subject.groups, dict[str, float]()
        whole = self.scoring.noise(self.subject.of_groups(groups, recipe))
        with progress_bar(len(groups), "screening", unit=f"{self.subject.by}s") as advance:
            for group in groups:
                if self.options.deadline.is_over:
                    break
                found[group.name] = self.scoring.noise(self.subject.of_groups((group,), recipe)).share_of(whole)
                advance(1)
        return found

    @cached_property
    def problem(self) -> Problem:
        """The additive model. Its noise is a share of that of the file with all groups in INT8."""
        return additive_problem(self.subject, self.costs, {**self.shares, **self._scored_shares()})

    def _scored_shares(self) -> dict[str, float]:
        """Returns the shares of groups whose points the store has, moved into the interval of these points."""
        scoring, found = self.scoring, dict[str, float]()
        whole = self._stored(scoring.whole)
        if len(whole) < len(scoring.float_predictions):
            return found
        loss = scoring.change(self._reference(whole), whole, 0.0)[0].high
        for group in self.subject.groups if loss > 0 else ():
            kept = self._stored(self.subject.of_groups((group,)))
            if kept and group.name in self.shares:
                change, _ = scoring.change(self._reference(kept), kept, 0.0)
                found[group.name] = min(
                    max(self.shares[group.name], change.low / loss, 0.0), max(change.high / loss, 0)
                )
        return found

    def _stored(self, candidate: Candidate) -> dict[int, Any]:
        return self.scoring.journal.predictions(self.scoring.trial(candidate), self.scoring.float_predictions)

    def _reference(self, found: Mapping[int, Any]) -> dict[int, Any]:
        return {number: self.scoring.float_predictions[number] for number in found}

    def precisions(self, candidate: Candidate) -> dict[str, str]:
        """Returns name of each group -> its precision; one of whose layers all stay in float is in float."""
        layers = self.subject.layers(candidate)
        return {
            group.name: next((layers[layer] for layer in group.layers if layer in layers), FLOAT)
            for group in self.subject.groups
        }

    def expected_us(self, candidate: Candidate) -> float:
        """Returns the time of a candidate by the costs of its layers; what moves values between them fits itself in."""
        precisions = self.precisions(candidate)
        groups = {
            name: {precisions[name]: options[precisions[name]]} if precisions.get(name) in options else options
            for name, options in self.problem.groups.items()
        }
        fixed = Problem(groups, self.problem.links)
        found = Solver(fixed).least("time_us", {})
        assert found is not None  # noqa: S101 - there is no limit
        return fixed.total("time_us", found)

    @cached_property
    def float_us(self) -> float:
        """The time of the float file by the costs of its layers."""
        return self.expected_us(Candidate())

    def _contenders(self) -> list[Contender]:
        """Returns FP32, what `edgeq export` writes, all groups in INT8, and the front."""
        best = self.recipes[0]
        whole = self.subject.of_groups(self.subject.groups, best)
        named = [(FP32, Candidate(), True), (DEFAULT, self.default, True), (ALL_INT8, whole, False)]
        front = sorted(self._front(), key=self.expected_us)
        named += [(f"{number}", each, False) for number, each in enumerate(front, start=1)]
        found: dict[str, Contender] = {}
        for name, candidate, pinned in named:
            trial = self.scoring.trial(candidate)
            if trial.plan in found:
                continue
            file = self.subject.write(candidate, self.scoring.folder / name.replace(" ", "_"))
            found[trial.plan] = Contender(
                name, candidate, trial, file, self._noise(candidate), self._ratio(candidate), pinned
            )
        plain, *others = found.values()
        plain.change = ScoreChange(points=0.0, low=0.0, high=0.0, images=len(self.scoring.float_predictions))
        return [plain, *others]

    def _front(self) -> list[Candidate]:
        """Returns the candidates of the additive model's front, with each of the best recipes."""
        budget, solver = self.options.budget, Solver(self.problem)
        names = [group.name for group in self.subject.groups]
        by_size = budget.size is not None and budget.latency is None and budget.max_drop is None
        axis: Cost = "size_bytes" if by_size or self.float_us <= 0 else "time_us"
        found, limits = [], self._size_limit()
        files = list(solver.front(axis, limits, STEPS))
        if budget.latency is not None and budget.latency.is_ratio:
            times = (share * budget.latency.value * self.float_us for share in _AROUND)
            files += [each for time in times if (each := solver.least("noise", {**limits, "time_us": time}))]
        for precisions in files:
            chosen = {name: precisions[name] for name in names if precisions[name] != FLOAT}
            found += [Candidate(chosen, recipe) for recipe in self.recipes if chosen]
        return found

    def _size_limit(self) -> dict[Cost, float]:
        """Returns the budget's limit of size in the additive model, whose weights are a part of the file."""
        limit = self.options.budget.size
        if limit is None:
            return {}
        whole, plain = self.scoring.int8_file.size_bytes, self.scoring.float_file.size_bytes
        allowed = limit.value * (plain if limit.is_ratio else 1.0)
        precisions = {name: next(iter(options)) for name, options in self.problem.groups.items()}
        in_float = self.problem.total("size_bytes", precisions)
        saved = in_float - self.problem.total(
            "size_bytes", {name: INT8 if INT8 in self.problem.groups[name] else key for name, key in precisions.items()}
        )
        share = (plain - allowed) / max(plain - whole, 1)
        return {"size_bytes": in_float - min(share, 1.0) * saved}

    def _noise(self, candidate: Candidate) -> float:
        precisions = self.precisions(candidate)
        return sum(share for name, share in self.shares.items() if precisions[name] != FLOAT)

    def _ratio(self, candidate: Candidate) -> float:
        return self.expected_us(candidate) / self.float_us if self.float_us > 0 else 1.0

    def _check_size(self, contenders: list[Contender]) -> None:
        limit, plain = self.options.budget.size, contenders[0].artifact.size_bytes
        sizes = [each.artifact.size_bytes for each in contenders]
        if limit is not None and not any(limit.keeps(size / plain, size) for size in sizes):
            least = min(sizes)
            raise InputError(
                f"`file_size` {limit.text}: the smallest file of {self.subject.model.name} for "
                f"{self.subject.target.name} takes {least / 1e6:.3g} MB, {least / plain:.2f}x of FP32's; allow that"
            )

    def _tried(self, contender: Contender, found: Measured | None) -> Tried:
        scoring = self.scoring
        if contender.name == FP32:
            predictions = scoring.float_predictions
        else:
            predictions = {n: each for n, each in contender.predictions.items() if n in scoring.float_predictions}
        score = scoring.score(contender.trial, predictions) if predictions else None
        found = found or Measured(TunedLatency(ratio=round(contender.ratio, 4)))
        return Tried(contender, found.latency, score, found.usage)
