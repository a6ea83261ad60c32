"""Greedy and beam search against transformers' `generate`, on the same torch models."""

from __future__ import annotations

import numpy as np
import pytest

from edgeq.generation.search import Limits, StepTimes, beam_search, greedy

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

_SHAPE = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 7,
}  # fmt: skip
_GROUPED = {"intermediate_size": 64, "num_key_value_heads": 2}
_FAMILIES = {
    "llama": (transformers.LlamaConfig, transformers.LlamaForCausalLM, _GROUPED),
    "qwen2": (transformers.Qwen2Config, transformers.Qwen2ForCausalLM, _GROUPED),
    "opt": (transformers.OPTConfig, transformers.OPTForCausalLM, {"ffn_dim": 64, "word_embed_proj_dim": 32}),
}
_PROMPT = [1, 5, 17, 42, 8]


class Whole:
    """Reads all tokens of a torch model anew at each step."""

    def __init__(self, model, prompts):
        self.model = model
        self.rows = torch.tensor(prompts)

    def logits(self):
        with torch.no_grad():
            return self.model(input_ids=self.rows).logits[:, -1].numpy()

    def step(self, tokens):
        self.rows = torch.cat([self.rows, torch.tensor(tokens)[:, None]], dim=1)
        return self.logits()

    def keep(self, rows):
        self.rows = self.rows[list(rows)]


@pytest.fixture(params=_FAMILIES)
def model(request):
    torch.manual_seed(0)
    config, kind, own = _FAMILIES[request.param]
    found = kind(config(**_SHAPE, **own)).eval()
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.mul_(3)
    return found


def _generated(model, **options):
    ids = torch.tensor([_PROMPT])
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, **options)


def _without_end(row):
    tokens = row[len(_PROMPT) :].tolist()
    return tuple(tokens[: tokens.index(7)] if 7 in tokens else [token for token in tokens if token])


def test_greedy_search_writes_what_generate_writes(model):
    wanted = _without_end(_generated(model, max_new_tokens=32)[0])
    stepper = Whole(model, [_PROMPT])
    assert greedy(stepper, stepper.logits(), Limits((7,), 32)) == [wanted]


def test_beam_search_offers_what_generate_offers(model):
    found = _generated(
        model, max_new_tokens=10, num_beams=4, num_return_sequences=4, return_dict_in_generate=True, output_scores=True
    )
    stepper = Whole(model, [_PROMPT])
    beams = beam_search(stepper, stepper.logits(), Limits((7,), 10), 4)
    assert [beam.tokens for beam in beams] == [_without_end(row) for row in found.sequences]
    np.testing.assert_allclose([beam.score for beam in beams], found.sequences_scores.numpy(), atol=1e-4)


class Scripted:
    """Rows that write fixed tokens."""

    def __init__(self, scripts):
        self.scripts, self.at, self.stepped = scripts, 0, []

    def logits(self):
        found = np.zeros((len(self.scripts), 10), np.float32)
        for row, script in enumerate(self.scripts):
            found[row, script[self.at]] = 1
        return found

    def step(self, tokens):
        self.stepped.append(list(tokens))
        self.at += 1
        return self.logits()

    def keep(self, rows):
        self.scripts = [self.scripts[row] for row in rows]


def test_rows_that_have_ended_cost_no_further_steps():
    rows = Scripted([[3, 9, 0, 0], [4, 5, 6, 9], [9, 0, 0, 0]])
    assert greedy(rows, rows.logits(), Limits((9,), 8)) == [(3,), (4, 5, 6), ()]
    assert rows.stepped == [[3, 4], [5], [6]]


def test_a_text_without_an_end_is_bounded_and_its_steps_are_timed():
    rows, clock = Scripted([[3, 3, 3, 3]]), iter(range(0, 100, 5))
    times = StepTimes(now=lambda: next(clock))
    assert greedy(rows, rows.logits(), Limits((9,), 4), times) == [(3, 3, 3, 3)]
    # The fourth token is the last one: nothing is read after it.
    assert times.steps_ns == [5, 5, 5]
