"""The best file for a budget: the front of an additive model, scored for real by successive halving, then timed.

1. The float file is scored on all images: what it says is what others are compared with.
2. Recipes (methods of ranges, repairs) are ranked by the noise that they leave with all layers in INT8.
3. Each group is screened alone in INT8, and with weights of 4 bits where the size of the file is limited and the
   target's engines take them. With the costs of layers that makes the additive model, whose exact front
   (`edgeq.tuning.front`) gives the candidates: for ever more time the precisions with the least noise.
4. They are scored by successive halving (`edgeq.tuning.search_halving`), and with them what `edgeq export` writes.
5. What is left is measured in turns with FP32 (`edgeq.tuning.search_latency`), and the best within the budget is taken.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.progress import progress_bar
from edgeq.results.sensitivity import ScoreChange
from edgeq.results.tuning import TunedLatency
from edgeq.tuning.candidate import FLOAT, INT8, W4A8, Candidate, Recipe
from edgeq.tuning.front import Cost, Problem, Solver
from edgeq.tuning.scoring import Scoring
from edgeq.tuning.search_choice import SearchOptions, Tried
from edgeq.tuning.search_costs import LayerCosts, additive_problem
from edgeq.tuning.search_events import tell_search_started, tell_trial_finished, tell_trial_started, tell_trial_timed
from edgeq.tuning.search_halving import Contender, halve
from edgeq.tuning.search_latency import UNKNOWN, Measured, measured
from edgeq.tuning.search_sizes import LayerSizes, layer_sizes
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

_CORRECTIONS = 3
"""How often a limit of size is corrected by what the additive model was off by."""

FP32, DEFAULT, ALL_INT8, ALL_W4A8 = "fp32", "default", "all int8", "all w4a8"


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
        float_score = self._score_float()
        tell_search_started(scoring, options, float_score)
        contenders = self._contenders()
        self._check_size(contenders)
        self._measure_usage(contenders)
        done = halve(scoring, contenders[1:], options.budget.max_drop, options.deadline)
        known = self._measured(contenders)
        return [self._tried(each, known.get(each.name)) for each in contenders], done

    def learned(self, plain: Tried, tried: Tried) -> Tried:
        """Returns a file with learned rounding, scored and measured like others; `plain` is FP32. It takes minutes."""
        base = tried.contender
        recipe = dataclasses.replace(base.candidate.recipe, learns_rounding=True)
        candidate = dataclasses.replace(base.candidate, recipe=recipe)
        file, trial = self._file(candidate), self.scoring.trial(candidate)
        found = Contender(f"{base.name} learned", candidate, trial, file, base.noise, base.ratio)
        tell_trial_started(found, len(self.subject.layers(candidate)))
        halve(self.scoring, [found], self.options.budget.max_drop, self.options.deadline)
        return self._tried(found, self._measured([plain.contender, found]).get(found.name))

    def _measured(self, contenders: list[Contender]) -> dict[str, Measured | None]:
        """Returns name -> what files take, of those that are still wanted; the first is FP32."""
        scoring, options = self.scoring, self.options
        left = [each for each in contenders if not each.dropped and each.change is not None]
        if options.deadline.is_over and not options.budget.needs_measuring:
            left = []
        files = [(each.trial, each.artifact) for each in left]
        taken = measured(scoring.journal, self.site, files, options.budget) if left else []
        known = dict(zip([each.name for each in left], taken, strict=True))
        for each in left:
            tell_trial_timed(each, known.get(each.name))
        return known

    def _measure_usage(self, contenders: list[Contender]) -> None:
        """Measures the memory and the energy of all candidates if they are limited: no model estimates them.

        So candidates are not dropped for others that take more. One that takes too much is not scored, if another one
        does not.
        """
        budget = self.options.budget
        limits = {name: limit for name, limit in (("memory", budget.memory), ("energy", budget.energy)) if limit}
        if not limits:
            return
        files = [(each.trial, each.artifact) for each in contenders]
        for each, found in zip(contenders, measured(self.scoring.journal, self.site, files, budget), strict=True):
            each.usage = UNKNOWN if found is None else found.usage
        plain = contenders[0].usage
        over = {
            each.name: name
            for each in contenders
            for name, limit in limits.items()
            if not limit.keeps(*each.usage.amount(name, plain))
        }
        if any(not each.pinned and each.name not in over for each in contenders):
            for each in contenders:
                if each.name in over and not each.pinned:
                    each.dropped = f"takes more than the {over[each.name]} that is allowed"

    def _score_float(self) -> float:
        """Returns the score of the float file; raises `InputError` if INT8 has nothing to lose."""
        scoring = self.scoring
        value = scoring.score(scoring.trial(Candidate()), scoring.float_predictions, is_reference=True)
        score = scoring.task.score_type
        if not score.lower_is_better and value <= 0:
            raise InputError(
                f"{self.subject.model.name}: its {score.main} is {value:g} in FP32, so INT8 has nothing to lose; check "
                "its weights, `preset` and data with `edgeq eval` first"
            )
        return value

    # Candidates -------------------------------------------------------------------------------------------------------

    @cached_property
    def recipes(self) -> tuple[Recipe, ...]:
        """The recipes with the least noise, the best first."""
        ranges, found = self.subject.ranges, dict[Recipe, float]()
        methods = [None, *(each for each in METHODS if ranges.histograms and each != ranges.method)]
        corrections = (False, True) if self.subject.may_correct_biases else (False,)
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
    def choices(self) -> dict[str, tuple[str, ...]]:
        """Name of a group -> the precisions that it may have instead of float.

        Weights of 4 bits make a file smaller and nothing faster, so that they are a choice where its size is limited.
        """
        narrow = self.subject.four_bits if self.options.budget.size is not None else frozenset()
        return {
            group.name: (INT8,) if narrow.isdisjoint(group.layers) else (INT8, W4A8) for group in self.subject.groups
        }

    @cached_property
    def shares(self) -> dict[str, dict[str, float]]:
        """Name of a group -> precision -> its part of the noise of the file with all groups in INT8.

        Those that were screened. Biases are not corrected here, which leaves the parts much the same, and is what
        `--sensitivity` screens too.
        """
        recipe = dataclasses.replace(self.recipes[0], corrects_biases=False)
        found: dict[str, dict[str, float]] = {}
        whole = self.scoring.noise(self.subject.of_groups(self.subject.groups, recipe))
        screened = [(name, precision) for name, precisions in self.choices.items() for precision in precisions]
        with progress_bar(len(screened), "screening", unit=f"{self.subject.by}s") as advance:
            for name, precision in screened:
                if self.options.deadline.is_over:
                    break
                noise = self.scoring.noise(Candidate({name: precision}, recipe))
                found.setdefault(name, {})[precision] = noise.share_of(whole)
                advance(1)
        return found

    @cached_property
    def problem(self) -> Problem:
        """The additive model. Its noise is a share of that of the file with all groups in INT8."""
        return additive_problem(self.subject, self.costs, self._scored_shares(), self._sizes)

    @cached_property
    def _sizes(self) -> LayerSizes:
        files = {FLOAT: self.scoring.float_file, INT8: self.scoring.whole_file}
        if (narrow := self._all_in_four_bits) is not None:
            files[W4A8] = self._file(narrow)
        return layer_sizes(self.subject, files)

    @property
    def _all_in_four_bits(self) -> Candidate | None:
        """All groups in the last of their precisions; `None` if that is INT8."""
        precisions = {name: precisions[-1] for name, precisions in self.choices.items()}
        return Candidate(precisions, self.recipes[0]) if W4A8 in precisions.values() else None

    def _scored_shares(self) -> dict[str, dict[str, float]]:
        """Returns all shares, those of groups whose points the store has moved into the interval of these points."""
        scoring, found = self.scoring, dict(self.shares)
        whole = self._stored(scoring.whole)
        if len(whole) < len(scoring.float_predictions):
            return found
        loss = scoring.change(self._reference(whole), whole, 0.0)[0].high
        for group in self.subject.groups if loss > 0 else ():
            kept = self._stored(self.subject.of_groups((group,)))
            if kept and group.name in self.shares:
                change, _ = scoring.change(self._reference(kept), kept, 0.0)
                screened = self.shares[group.name]
                own = min(max(screened[INT8], change.low / loss, 0.0), max(change.high / loss, 0))
                found[group.name] = {name: share + own - screened[INT8] for name, share in screened.items()}
        return found

    def _stored(self, candidate: Candidate) -> dict[int, Any]:
        return self.scoring.journal.predictions(self.scoring.trial(candidate), self.scoring.float_predictions)

    def _reference(self, found: Mapping[int, Any]) -> dict[int, Any]:
        return {number: self.scoring.float_predictions[number] for number in found}

    def precisions(self, candidate: Candidate) -> dict[str, str]:
        """Returns name of each group -> its precision; one of whose layers all stay in float is in float."""
        return {
            group.name: FLOAT if candidate.in_float.issuperset(group.layers) else candidate.precision(group.name)
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
        """Returns FP32, what `edgeq export` writes, all groups in INT8 (and in 4 bits if they may), and the front."""
        best = self.recipes[0]
        whole = self.subject.of_groups(self.subject.groups, best)
        named = [(FP32, Candidate(), True), (DEFAULT, self.default, True), (ALL_INT8, whole, False)]
        if (narrow := self._all_in_four_bits) is not None:
            named.append((ALL_W4A8, narrow, False))
        front = sorted(self._front(), key=self.expected_us)
        named += [(f"{number}", each, False) for number, each in enumerate(front, start=1)]
        found: dict[str, Contender] = {}
        for name, candidate, pinned in named:
            trial = self.scoring.trial(candidate)
            if trial.plan in found:
                continue
            found[trial.plan] = Contender(
                name, candidate, trial, self._file(candidate), self._noise(candidate), self._ratio(candidate), pinned
            )
            tell_trial_started(found[trial.plan], len(self.subject.layers(candidate)))
        plain, *others = found.values()
        plain.change = ScoreChange(points=0.0, low=0.0, high=0.0, images=len(self.scoring.float_predictions))
        return [plain, *others]

    def _front(self) -> list[Candidate]:
        """Returns the candidates of the additive model's front, with each of the best recipes.

        Files are written to see whether they are as small as the budget wants. Where the model was off, its limit is
        lowered by that.
        """
        limit, found = self._most_bytes, list[dict[str, str]]()
        for _ in range(_CORRECTIONS):
            files = [each for each in self._solutions(limit) if each not in found]
            sizes = [self._file(Candidate(each, self.recipes[0])).size_bytes for each in files]
            found += [each for each, size in zip(files, sizes, strict=True) if size <= self._most_bytes]
            excess = max(sizes, default=0) - self._most_bytes
            if excess <= 0:
                break
            limit -= excess
        return [Candidate(each, recipe) for each in found for recipe in self.recipes]

    def _solutions(self, most_bytes: float) -> list[dict[str, str]]:
        """Returns files on the front: name of a group -> its precision, without those in float.

        Args:
            most_bytes: Size of the largest file.
        """
        budget, solver = self.options.budget, Solver(self.problem)
        by_size = budget.size is not None and budget.latency is None and budget.max_drop is None
        axis: Cost = "size_bytes" if by_size or self.float_us <= 0 else "time_us"
        limits: dict[Cost, float] = {}
        if math.isfinite(most_bytes):
            limits["size_bytes"] = most_bytes - self._sizes.rest
        files = list(solver.front(axis, limits, STEPS))
        if budget.latency is not None and budget.latency.is_ratio:
            times = (share * budget.latency.value * self.float_us for share in _AROUND)
            files += [each for time in times if (each := solver.least("noise", {**limits, "time_us": time}))]
        names = [group.name for group in self.subject.groups]
        found = [{name: each[name] for name in names if each[name] != FLOAT} for each in files]
        return [each for index, each in enumerate(found) if each and each not in found[:index]]

    @property
    def _most_bytes(self) -> float:
        """The largest size that the budget allows, in bytes; infinite without a limit."""
        limit = self.options.budget.size
        if limit is None:
            return math.inf
        return limit.value * (self.scoring.float_file.size_bytes if limit.is_ratio else 1.0)

    def _file(self, candidate: Candidate) -> Artifact:
        """Returns the file of a candidate, which is written once."""
        plan = self.scoring.trial(candidate).plan
        if plan not in self._files:
            self._files[plan] = self.subject.write(candidate, self.scoring.folder / f"{len(self._files)}")
        return self._files[plan]

    @cached_property
    def _files(self) -> dict[str, Artifact]:
        return {}

    def _noise(self, candidate: Candidate) -> float:
        precisions = self.precisions(candidate)
        return sum(shares.get(precisions[name], 0.0) for name, shares in self.shares.items())

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
        tried = Tried(contender, found.latency, score, found.usage)
        tell_trial_finished(tried)
        return tried
