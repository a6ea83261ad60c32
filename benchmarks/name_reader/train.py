"""Trains the reader of surnames: `python -m benchmarks.name_reader.train OUT` writes a Hugging Face folder.

The vision tower learns first to tell the letter in the middle of each column, and its rank in the name; then all parts
learn to write names, with that as a second aim. Without the first stage nothing is learned in this time. The same seed
and number of threads give the same weights. An interrupted run resumes with the same command.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.name_reader.pictures import LETTERS, LONGEST, Pictures, draw_pictures, fold
from benchmarks.name_reader.reader import NAMES, build_reader
from edgeq.cli.progress import terminal_progress
from edgeq.errors import MismatchError
from edgeq.files import atomic_path
from edgeq.progress import progress_bar, reporting_to

_STATE = "training.safetensors"
_WARM_UP = 100
_SECOND_AIM = 0.3
"""Share of the columns' loss once names are written."""
_KEEP_EVERY = 100
_CLASSES = 1 + len(LETTERS)
_RANKS = 1 + LONGEST


@dataclass(frozen=True)
class Plan:
    """All that a training depends on.

    Attributes:
        seed: Of the first weights and of the pictures.
        threads: Of torch; sums in another order are other sums.
        tower_steps: Steps of the tower alone.
        tower_batch: Pictures in each of them.
        joint_steps: Steps of all parts.
        joint_batch: Pictures in each of them.
        rate: AdamW's learning rate.
    """

    seed: int = 7
    threads: int = 1
    tower_steps: int = 2400
    tower_batch: int = 64
    joint_steps: int = 2400
    joint_batch: int = 32
    rate: float = 2e-3

    @property
    def steps(self) -> int:
        """Steps in all."""
        return self.tower_steps + self.joint_steps

    def pictures_at(self, step: int) -> Pictures:
        """Returns what a step learns from; none returns in another step."""
        joint = step - self.tower_steps
        if joint < 0:
            return draw_pictures(self.seed, self.tower_batch, step * self.tower_batch)
        first = self.tower_steps * self.tower_batch + joint * self.joint_batch
        return draw_pictures(self.seed, self.joint_batch, first)

    def rate_at(self, step: int) -> float:
        """Returns the learning rate: each stage warms up; the second falls to nothing along a cosine."""
        joint = step - self.tower_steps
        if joint < 0:
            return self.rate * min(1.0, (step + 1) / _WARM_UP)
        cosine = (1 + math.cos(math.pi * joint / self.joint_steps)) / 2
        return self.rate * min(1.0, (joint + 1) / _WARM_UP) * cosine


class _Training:
    """The model with its optimizer, at some step.

    Args:
        plan: What to do.
    """

    def __init__(self, plan: Plan) -> None:
        import torch

        torch.set_num_threads(plan.threads)
        torch.manual_seed(plan.seed)
        self.plan = plan
        self.step = 0
        self.cpu_s = 0.0
        self.model = build_reader().train()
        width = self.model.config.vision_config.hidden_size
        self._judge = torch.nn.Linear(width, _CLASSES + _RANKS)
        self._named = {
            **{f"model.{name}": each for name, each in self.model.named_parameters()},
            **{f"judge.{name}": each for name, each in self._judge.named_parameters()},
        }
        self._adam = torch.optim.AdamW(self._named.values(), plan.rate, betas=(0.9, 0.98), weight_decay=0.01)

    def advance(self) -> float:
        """Takes the next step and returns its loss."""
        import torch

        started = time.process_time()
        loss = self._loss(self.plan.pictures_at(self.step))
        for group in self._adam.param_groups:
            group["lr"] = self.plan.rate_at(self.step)
        self._adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._named.values(), 1.0)
        self._adam.step()
        self.step += 1
        self.cpu_s += time.process_time() - started
        return float(loss.detach())

    def _loss(self, pictures: Pictures) -> Any:
        import torch
        from torch.nn.functional import cross_entropy

        seen = self.model.model.vision_tower(torch.from_numpy(fold(pictures.strips)), output_hidden_states=True)
        features = seen.hidden_states[-1][:, 1:]
        told = self._judge(features).transpose(1, 2)
        columns = cross_entropy(told[:, :_CLASSES], torch.from_numpy(pictures.letters))
        columns = columns + cross_entropy(told[:, _CLASSES:], torch.from_numpy(pictures.ranks))
        if self.step < self.plan.tower_steps:
            return columns
        tokens = torch.from_numpy(NAMES.tokens_of(pictures.names))
        language = self.model.model.language_model
        embedded = language.embed_tokens(tokens[:, :-1])
        image = self.model.model.multi_modal_projector(features)
        read = len(NAMES.prompt) - 1
        embedded = torch.cat([embedded[:, :1], image, embedded[:, read:]], dim=1)
        written = self.model.lm_head(language(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, read:])
        names = cross_entropy(written.transpose(1, 2), tokens[:, read + 1 :], ignore_index=NAMES.pad)
        return names + _SECOND_AIM * columns

    def save(self, path: Path) -> None:
        """Writes everything that `load` needs."""
        from safetensors.torch import save_file

        tensors = {name: each.detach() for name, each in self._named.items()}
        for name, each in self._named.items():
            # Weights outside the present stage have no moments yet.
            tensors |= {f"adam.{name}.{kind}": value for kind, value in self._adam.state.get(each, {}).items()}
        facts = {"plan": asdict(self.plan), "step": self.step, "cpu_s": self.cpu_s}
        with atomic_path(path) as target:
            save_file(tensors, target, {"training": json.dumps(facts)})

    def load(self, path: Path) -> None:
        """Continues where another process stopped.

        Raises:
            MismatchError: it followed another plan.
        """
        import torch
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            facts: Mapping[str, Any] = json.loads(file.metadata()["training"])
            if facts["plan"] != asdict(self.plan):
                raise MismatchError(f"{path} is from a training with other settings; delete it, or repeat its command")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.step, self.cpu_s = facts["step"], facts["cpu_s"]
        with torch.no_grad():
            for name, each in self._named.items():
                each.copy_(tensors[name])
                prefix = f"adam.{name}."
                state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                if state:
                    self._adam.state[each] = state


def train(plan: Plan, folder: Path, report: Callable[[str], None] = print) -> float:
    """Writes the trained reader into a folder, in Hugging Face's format, and returns the seconds of CPU time it took.

    Args:
        plan: What to do.
        folder: Where it goes; the state of an interrupted run is looked for here.
        report: Takes a line about the loss now and then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = folder / _STATE
    training = _Training(plan)
    if state.is_file():
        training.load(state)
    losses: list[float] = []
    with progress_bar(plan.steps, "train", unit="steps") as advanced:
        advanced(training.step)
        while training.step < plan.steps:
            losses.append(training.advance())
            advanced(1)
            if training.step % _KEEP_EVERY == 0:
                training.save(state)
                report(f"step {training.step}: loss {np.mean(losses):.3f}, {training.cpu_s:.0f} s of CPU time")
                losses.clear()
    with tempfile.TemporaryDirectory(dir=folder) as whole:
        training.model.eval().half().save_pretrained(whole)
        for file in sorted(Path(whole).iterdir()):
            file.replace(folder / file.name)
    state.unlink(missing_ok=True)
    return training.cpu_s


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="OUT", help="folder for the model")
    parser.add_argument("--seed", type=int, default=Plan.seed, help="of the first weights and of the pictures")
    parser.add_argument("--threads", type=int, default=Plan.threads, help="of torch")
    return parser


def main() -> None:
    """Trains on the command line."""
    given = make_parser().parse_args()
    with reporting_to(terminal_progress):
        seconds = train(Plan(seed=given.seed, threads=given.threads), given.folder)
    print(f"{given.folder}: trained in {seconds:.0f} s of CPU time")


if __name__ == "__main__":
    main()
