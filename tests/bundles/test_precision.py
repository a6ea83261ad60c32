"""Precisions of parts: what entries and presets mean."""

from __future__ import annotations

import pytest

from edgeq.bundles.precision import Precision, parse_precision, precisions_of
from edgeq.errors import InputError

_PARTS = ("vision", "connector", "embedding", "decoder")


def _names(preset, *stated):
    return {part: each.name for part, each in precisions_of(_PARTS, preset, stated).items()}


def test_everything_is_fp32_unless_asked():
    assert set(_names(None).values()) == {"fp32"}


def test_the_asymmetric_preset_has_few_bits_in_the_decoder_alone():
    assert _names("asymmetric") == {
        "vision": "fp16", "connector": "fp16", "embedding": "fp16", "decoder": "w4g128", "head": "fp16"
    }  # fmt: skip


def test_uniform_presets_leave_the_table_of_words_in_halves():
    found = _names("uniform-4", "vision=fp32")
    assert found == {
        "vision": "fp32", "connector": "w4g128", "embedding": "fp16", "decoder": "w4g128", "head": "w4g128"
    }  # fmt: skip


def test_the_head_of_a_decoder_of_few_bits_stays_in_halves():
    assert _names(None, "decoder=w4g32a-gptq")["head"] == "fp16"
    assert _names(None, "decoder=w4g32a-gptq", "head=w8g32")["head"] == "w8g32"


@pytest.mark.parametrize(
    ("text", "bits", "symmetric", "group", "method"),
    [
        ("w4g128-gptq", 4, True, 128, "gptq"),
        ("w8g32a", 8, False, 32, ""),
        ("w2g16a-awq+gptq", 2, False, 16, "awq+gptq"),
    ],
)
def test_a_precision_is_bits_groups_and_a_method(text, bits, symmetric, group, method):
    found = parse_precision(text)
    scheme = found.scheme
    assert (scheme.bits, scheme.symmetric, found.group_size, found.method) == (bits, symmetric, group, method)
    assert not scheme.signed  # kernels take unsigned integers


def test_the_method_depends_on_whether_there_is_something_to_calibrate_on():
    assert Precision("w4g32").resolved(has_samples=True).method == "gptq-act-order"
    assert Precision("w4g32").resolved(has_samples=False).method == "rtn"
    assert Precision("nf4").resolved(has_samples=True).method == "rtn"
    with pytest.raises(InputError, match="add `calib` with inputs of this part, or write w4g32-rtn"):
        Precision("w4g32", "gptq").resolved(has_samples=False)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ("language=w4g32", "with a part of vision, connector, embedding, decoder, head"),
        ("decoder", "wanted PART=PRECISION"),
        ("decoder=w9", "unknown precision 'w9'"),
        ("decoder=w4", "has no group of inputs .* write w4g128"),
        ("decoder=w4g32-best", "`weight_method` best"),
        ("decoder=fp16-rtn", "fp16 has no method"),
        ("embedding=w4g32", "is looked up"),
    ],
)
def test_a_wrong_entry_is_one_line(stated, message):
    with pytest.raises(InputError, match=message):
        precisions_of(_PARTS, None, (stated,))


def test_a_part_is_stated_once_and_a_preset_known():
    with pytest.raises(InputError, match="states decoder a second time"):
        precisions_of(_PARTS, None, ("decoder=fp16", "decoder=fp32"))
    with pytest.raises(InputError, match="wanted one of asymmetric, uniform-8, uniform-4"):
        precisions_of(_PARTS, "smallest", ())
