"""Options of decoders are numbers, switches, names and arrays."""

from __future__ import annotations

from typing import Any

import pytest

from edgeq.errors import InputError
from edgeq.exporting.artifact import Postprocessing
from edgeq.tasks.detection.decoders.roles import pick_options

DEFAULTS = {"top_k": 100, "relative": False, "nms": "hard", "anchors": ((1.0, 2.0),)}


def pick(**options: Any) -> dict[str, Any]:
    return pick_options(Postprocessing("d", options=options), DEFAULTS)


def test_what_is_not_set_keeps_its_default() -> None:
    assert pick() == DEFAULTS
    assert pick(anchors=[[10, 13.5], [16, 30]], relative=1, nms="soft") == {
        "top_k": 100,
        "relative": True,
        "nms": "soft",
        "anchors": ((10, 13.5), (16, 30)),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top_k": True}, "option 'top_k' is True, wanted a number"),
        ({"relative": 2}, "option 'relative' is 2, wanted true or false"),
        ({"relative": [1]}, r"option 'relative' is \[1\], wanted true or false"),
        ({"nms": 1}, "option 'nms' is 1, wanted a name"),
        ({"anchors": 3}, "option 'anchors' is 3, wanted numbers in a list"),
        ({"anchors": [[1, "2"]]}, "wanted numbers in a list"),
        ({"anchor": []}, "has no option 'anchor', only top_k, relative, nms, anchors"),
    ],
)
def test_another_type_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"decoder d: .*{message}"):
        pick(**options)
