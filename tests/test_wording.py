"""Numbers in messages."""

from __future__ import annotations

import pytest

from edgeq.wording import counted


@pytest.mark.parametrize(
    ("count", "words", "said"),
    [
        (0, ("image",), "0 images"), (1, ("image",), "1 image"), (2000, ("image",), "2,000 images"),
        (1, ("class", "classes"), "1 class"), (3, ("class", "classes"), "3 classes"),
    ],
)  # fmt: skip
def test_one_has_no_s(count, words, said):
    assert counted(count, *words) == said
