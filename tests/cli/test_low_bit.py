"""What is said of weights of few bits that an engine computes more slowly than FP32."""

from __future__ import annotations

import pytest

from edgeq.cli.low_bit import describe_low_bit
from edgeq.errors import InputError
from edgeq.exporting.costs.low_bit_products import LowBitProduct, ProductTable, read_products, write_products
from edgeq.exporting.quantization_facts import LowBitFacts


@pytest.mark.parametrize(
    ("form", "bits", "group", "slow"),
    [
        ("matmul_nbits", 2, 16, "ONNX Runtime"),  # 6 to 38 times, found by hand on a whole model
        ("matmul_nbits", 4, 32, None),
        ("matmul_nbits", 8, 128, None),
        ("decompression", 4, 32, None),
        ("float", 2, 16, None),  # simulated, and never timed
    ],
)
def test_an_export_says_what_is_slower_than_fp32(form, bits, group, slow) -> None:
    facts = LowBitFacts(nodes=3, bits=bits, form=form, group_size=group)
    lines = [line for line in describe_low_bit(facts) if line.startswith("slower than FP32")]
    if slow is None:
        assert lines == []
        return
    (line,) = lines
    assert f"in {slow}, by edgeq's table: {bits} bits in groups of {group} take" in line
    assert "times as long for" in line and "onnxruntime 1." in line


def test_numbers_of_a_codebook_are_called_by_it() -> None:
    facts = LowBitFacts(nodes=2, bits=4, form="decompression", group_size=16, bits_per_weight=6.0, codebook="nf4")
    assert describe_low_bit(facts) == ["2 layers with weights of NF4 in groups of 16, 6.00 bits per weight with scales"]


def test_groups_that_were_not_timed_are_taken_for_the_nearest(tmp_path) -> None:
    products = [
        LowBitProduct("onnxruntime", 2, 16, 768, 3072, rows, ratio) for rows, ratio in ((1, 20.0), (128, 2.5), (4, 0.9))
    ]
    products.append(LowBitProduct("onnxruntime", 2, 128, 768, 3072, 1, 0.5))
    file = tmp_path / "table.csv"
    file.write_text(write_products("a CPU, 1 thread", products))
    table = read_products(file)
    assert table == ProductTable("a CPU, 1 thread", tuple(products))
    assert [each.ratio for each in table.slower("onnxruntime", 2, 32)] == [20.0, 2.5]
    assert not table.slower("onnxruntime", 2, 256) and not table.slower("openvino", 2, 16)
    file.write_text("# nothing\nengine,bits\nonnxruntime,2\n")
    read_products.cache_clear()
    with pytest.raises(InputError, match="is not a table of products"):
        read_products(file)
