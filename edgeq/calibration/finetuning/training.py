"""Gradient descent on how far the outputs of the quantized network are from those of the float model.

The loss is the squared error of each output relative to its energy, averaged over the outputs. Adam moves weights in
units of their steps, and a step so far that the largest number on its grid moves as far as a weight. Its rate is
divided by the square root of the largest integer of the grid: on ResNet-20 .005 suits 4 bits and makes 8 bits worse,
.001 suits these. It falls to zero along half a cosine. After each epoch the error on held-out images is measured, and
the best epoch counts, the untrained network among them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from edgeq.calibration.finetuning.checkpoint import Checkpoint
from edgeq.calibration.finetuning.student import Student

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Settings:
    """How a network is trained.

    Attributes:
        epochs: How many times each image is seen.
        batch: Images of a step.
        rate: Adam's first step, in steps of a grid times the square root of its largest integer.
        seed: Of the order of the images.
    """

    epochs: int = 4
    batch: int = 16
    rate: float = 0.013
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs with what the float model makes of them, each by name, `(images, ...)` with the graph's shape behind.

    Attributes:
        inputs: Of the graph.
        outputs: Of the float model.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray]

    @property
    def count(self) -> int:
        """The number of images."""
        return len(next(iter(self.inputs.values())))

    def rows(self, chosen: np.ndarray | slice) -> Samples:
        """Returns some of the images."""
        inputs, outputs = (
            {name: array[chosen] for name, array in each.items()} for each in (self.inputs, self.outputs)
        )
        return Samples(inputs, outputs)


def relative_error(expected: Mapping[str, np.ndarray], found: Mapping[str, np.ndarray]) -> float:
    """Returns the squared error of outputs, each relative to its energy, averaged over the outputs."""
    errors = []
    for name, array in expected.items():
        energy = float(np.square(array, dtype=np.float64).sum())
        errors.append(float(np.square(found[name] - array, dtype=np.float64).sum()) / (energy or 1.0))
    return float(np.mean(errors))


def train(
    student: Student,
    samples: Samples,
    held_out: Samples,
    settings: Settings,
    checkpoint: Checkpoint,
    advance: Callable[[int], None],
) -> list[float]:
    """Trains a network in place up to its best epoch, and returns the held-out error before and after each epoch.

    Args:
        student: The network.
        samples: What to train on.
        held_out: What to judge epochs on.
        settings: How.
        checkpoint: Where finished epochs are kept.
        advance: Is told of every image that was seen.

    Raises:
        ModelError: an operator cannot be run in the form that the graph has it in.
        InputError: the checkpoint cannot be written.
    """
    run = _Run(student, settings)
    errors = run.resume(checkpoint) or [_held_out_error(student, held_out, settings.batch)]
    advance(samples.count * (len(errors) - 1))
    energies = {
        name: float(np.square(array, dtype=np.float64).mean()) or 1.0 for name, array in samples.outputs.items()
    }
    batches = max(1, samples.count // settings.batch)
    for epoch in range(len(errors) - 1, settings.epochs):
        order = np.random.default_rng([settings.seed, epoch]).permutation(samples.count)
        for number, chosen in enumerate(np.array_split(order, batches)):
            run.step(samples.rows(chosen), energies, (epoch + number / batches) / settings.epochs)
            advance(len(chosen))
        errors.append(_held_out_error(student, held_out, settings.batch))
        if errors[-1] < min(errors[:-1]):
            run.take_as_best()
        run.keep(checkpoint, errors)
    run.return_to_best()
    return errors


def _held_out_error(student: Student, held_out: Samples, batch: int) -> float:
    import torch

    found: dict[str, list[np.ndarray]] = {name: [] for name in held_out.outputs}
    with torch.no_grad():
        for start in range(0, held_out.count, batch):
            part = held_out.rows(slice(start, start + batch))
            for name, output in student.outputs(part.inputs).items():
                found[name].append(output.numpy())
    return relative_error(held_out.outputs, {name: np.concatenate(arrays) for name, arrays in found.items()})


class _Run:
    """A network with the state of its training.

    Args:
        student: The network.
        settings: How it is trained.
    """

    def __init__(self, student: Student, settings: Settings) -> None:
        import torch

        self._student, self._settings = student, settings
        groups = student.parameters()
        self._parameters = [each for _, parameters in groups for each in parameters if each.numel()]
        self._adam = torch.optim.Adam(
            [{"params": parameters, "pace": 1 / math.sqrt(largest)} for largest, parameters in groups]
        )
        self._best = [each.detach().clone() for each in self._parameters]

    def step(self, samples: Samples, energies: Mapping[str, float], done: float) -> None:
        """Takes one step.

        Args:
            samples: The images of the step.
            energies: Output -> mean of its squares over all images.
            done: The share of all steps that were taken.
        """
        import torch

        rate = self._settings.rate * 0.5 * (1 + math.cos(math.pi * done))
        for group in self._adam.param_groups:
            group["lr"] = rate * group["pace"]
        found = self._student.outputs(samples.inputs)
        losses = [
            torch.mean((output - torch.from_numpy(samples.outputs[name])) ** 2) / energies[name]
            for name, output in found.items()
        ]
        self._adam.zero_grad()
        torch.stack(losses).mean().backward()  # type: ignore[no-untyped-call]
        self._adam.step()

    def take_as_best(self) -> None:
        """Takes the network as it is as the best so far."""
        self._best = [each.detach().clone() for each in self._parameters]

    def return_to_best(self) -> None:
        """Gives the network its best state."""
        self._set(self._best)

    def keep(self, checkpoint: Checkpoint, errors: list[float]) -> None:
        """Keeps everything that the next epoch and those behind it depend on."""
        state = [self._adam.state[each] for each in self._parameters]
        checkpoint.save(
            {
                "errors": np.array(errors),
                "updates": np.array([float(each["step"]) for each in state]),
                **_named("now", [each.detach() for each in self._parameters]),
                **_named("best", self._best),
                **_named("mean", [each["exp_avg"] for each in state]),
                **_named("square", [each["exp_avg_sq"] for each in state]),
            }
        )

    def resume(self, checkpoint: Checkpoint) -> list[float] | None:
        """Returns the errors of the epochs that an earlier run has finished, whose state it takes; `None` if none."""
        import torch

        kept = checkpoint.load()
        if kept is None:
            return None
        now, best, mean, square = (
            [torch.from_numpy(kept[f"{kind}.{index}"]) for index in range(len(self._parameters))]
            for kind in ("now", "best", "mean", "square")
        )
        self._set(now)
        self._best = best
        for index, parameter in enumerate(self._parameters):
            updates = torch.tensor(float(kept["updates"][index]))
            self._adam.state[parameter] = {"step": updates, "exp_avg": mean[index], "exp_avg_sq": square[index]}
        return [float(each) for each in kept["errors"]]

    def _set(self, values: list[torch.Tensor]) -> None:
        import torch

        with torch.no_grad():
            for parameter, value in zip(self._parameters, values, strict=True):
                parameter.copy_(value)


def _named(kind: str, tensors: list[torch.Tensor]) -> dict[str, np.ndarray]:
    return {f"{kind}.{index}": tensor.numpy() for index, tensor in enumerate(tensors)}
