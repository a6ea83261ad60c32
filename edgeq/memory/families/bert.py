"""BERT: an encoder of texts ("BERT", Devlin et al., 2019), with the head that its class in transformers has."""

from __future__ import annotations

import msgspec

from edgeq.memory.architecture import Architecture, Part, Tower
from edgeq.memory.config_file import ConfigFile, Size
from edgeq.memory.families.towers import encoder_layer
from edgeq.memory.weights import Weights, layer_norm, linear, table, values

_MASKED, _PRETRAINING, _CLASSIFIER = "BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification"
_PLAIN, _TOKENS = "BertModel", "BertForTokenClassification"
_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
_DEFAULT_LABELS = 2


class BertConfig(msgspec.Struct, kw_only=True):
    """The keys of BERT's config that its size depends on."""

    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Size
    intermediate_size: Size
    max_position_embeddings: Size = 512
    type_vocab_size: Size = 2
    tie_word_embeddings: bool = True
    id2label: dict[str, str] | None = None

    @property
    def labels(self) -> int:
        """Classes of a classifier."""
        return _DEFAULT_LABELS if self.id2label is None else len(self.id2label)


def read_bert(config: ConfigFile) -> Architecture:
    """Returns BERT's architecture."""
    kind = config.require_architecture((_PLAIN, _MASKED, _PRETRAINING, _CLASSIFIER, _TOKENS))
    found = config.read(BertConfig, required=_SIZES)
    hidden = found.hidden_size
    positions = values((found.max_position_embeddings + found.type_vocab_size) * hidden)
    embedding = table(found.vocab_size, hidden) + positions + layer_norm(hidden)
    parts = [
        Part("embedding", embedding),
        Part("encoder", found.num_hidden_layers * encoder_layer(hidden, found.intermediate_size)),
    ]
    if (head := _head(found, kind)).parameters:
        parts.append(Part("head", head))
    text = Tower(hidden, 2 * found.intermediate_size), found.max_position_embeddings
    return Architecture("bert", tuple(parts), text=text)


def _head(found: BertConfig, kind: str) -> Weights:
    hidden = found.hidden_size
    head = values(0) if kind in (_MASKED, _TOKENS) else linear(hidden, hidden)
    if kind in (_MASKED, _PRETRAINING):
        head += linear(hidden, hidden) + layer_norm(hidden) + values(found.vocab_size)
        head += values(0) if found.tie_word_embeddings else table(found.vocab_size, hidden)
    if kind == _PRETRAINING:
        head += linear(hidden, 2)
    if kind in (_CLASSIFIER, _TOKENS):
        head += linear(hidden, found.labels)
    return head
