"""Which products with weights of few bits an engine computes more slowly than in FP32, by a table that ships.

Few bits are no promise of speed: a kernel decides. `python -m benchmarks.low_bit_kernels` writes the table.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from functools import cache
from pathlib import Path

from edgeq.errors import InputError
from edgeq.exporting.costs.table import SHIPPED

TABLE = SHIPPED / "low_bit_products.csv"
"""The table that comes with edgeq."""

_SLOWER = 1.5
"""Times FP32's time from which a product is called slower: two runs on a busy machine differed by up to 1.4 times."""


@dataclass(frozen=True)
class LowBitProduct:
    """A product of rows by a matrix, timed with weights of few bits and in FP32.

    Attributes:
        engine: Name of the runtime.
        bits: Of a weight.
        group_size: Inputs that share a scale.
        inputs: Of the layer.
        outputs: Of the layer.
        rows: Rows that are multiplied at once: 1 as for a token, many as for a prompt or an image.
        ratio: Its time over FP32's in the same engine.
    """

    engine: str
    bits: int
    group_size: int
    inputs: int
    outputs: int
    rows: int
    ratio: float


@dataclass(frozen=True)
class ProductTable:
    """Products, and where they were timed.

    Attributes:
        how: In a few words: CPU, threads and versions.
        products: The products.
    """

    how: str
    products: tuple[LowBitProduct, ...]

    def slower(self, engine: str, bits: int, group_size: int) -> list[LowBitProduct]:
        """Returns the products that take longer than FP32, the slowest first.

        Weights in groups that were not timed are taken for those in the nearest that were.
        """
        alike = [each for each in self.products if (each.engine, each.bits) == (engine, bits)]
        size = min((each.group_size for each in alike), key=lambda each: abs(each - group_size), default=0)
        slow = [each for each in alike if each.group_size == size and each.ratio >= _SLOWER]
        return sorted(slow, key=lambda each: -each.ratio)


def write_products(how: str, products: Sequence[LowBitProduct]) -> str:
    """Returns a table as CSV, behind a line that says where it was measured."""
    text = io.StringIO()
    text.write(f"# {how}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([each.name for each in fields(LowBitProduct)])
    writer.writerows([*astuple(each)[:-1], f"{each.ratio:.2f}"] for each in products)
    return text.getvalue()


@cache
def read_products(path: Path = TABLE) -> ProductTable:
    """Returns a table that `write_products` wrote.

    Raises:
        InputError: the file is missing or not such a table.
    """
    try:
        how, *lines = path.read_text(encoding="utf-8").splitlines()
        products = tuple(
            LowBitProduct(
                row["engine"], int(row["bits"]), int(row["group_size"]), int(row["inputs"]), int(row["outputs"]),
                int(row["rows"]), float(row["ratio"]),
            )
            for row in csv.DictReader(lines)
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: is not a table of products ({error}); install edgeq again") from error
    return ProductTable(how.removeprefix("# "), products)
