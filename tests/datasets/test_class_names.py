from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeq.datasets.class_names import SYNONYMS, _meaning, _spelling, match_classes, parse_class_map
from edgeq.errors import InputError

VOC = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog",
    "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
COCO_OF_VOC = (
    "airplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog",
    "horse", "motorcycle", "person", "potted plant", "sheep", "couch", "train", "tv",
)  # fmt: skip


def test_pascal_voc_and_coco_are_joined_by_spelling_and_synonyms() -> None:
    matched = match_classes((*COCO_OF_VOC, "zebra"), tuple(reversed(VOC)))
    assert matched.pairs == dict(zip(COCO_OF_VOC, VOC, strict=True))
    assert matched.model_only == ("zebra",) and matched.data_only == ()
    assert matched.other_names == {
        "airplane": "aeroplane",
        "motorcycle": "motorbike",
        "couch": "sofa",
        "tv": "tvmonitor",
    }
    assert matched.describe().startswith("20 of the model's 21 classes are in the data; by another name: airplane=")


def test_the_own_name_wins_over_spelling_and_spelling_over_synonyms() -> None:
    matched = match_classes(("tv", "TV monitor"), ("Tv_Monitor", "tv"))
    assert matched.pairs == {"tv": "tv", "TV monitor": "Tv_Monitor"} and not matched.other_names
    assert match_classes(("Cell-Phone",), ("cell phone",)).is_plain


def test_a_stated_name_wins_over_all_and_may_join_several() -> None:
    matched = match_classes(("car", "truck", "bus"), ("vehicle", "bus"), {"car": "vehicle", "truck": "vehicle"})
    assert matched.pairs == {"car": "vehicle", "truck": "vehicle", "bus": "bus"}
    assert matched.data_only == ()


def test_what_is_not_matched_is_listed_with_what_joins_it() -> None:
    matched = match_classes(("RBC", "Platelets"), ("RBC", "Platelet cells", "WBC"))
    assert matched.describe() == (
        "1 of the model's 2 classes are in the data; only in the model, not scored: Platelets; only in the data, never "
        "detected: Platelet cells, WBC; `map` MODEL=DATA joins two names"
    )


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"lorry": "car"}, "the model has no class 'lorry'; it has car"),
        ({"car": "lorry"}, "the data has no class 'lorry'; it has car, Car "),
    ],
)
def test_names_that_do_not_exist_cannot_be_mapped(stated: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_classes(("car",), ("car", "Car "), stated)


def test_two_classes_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="'cell_phone' and 'cellphone' of the data are one to edgeq"):
        match_classes(("Cell Phone",), ("cell_phone", "cellphone"))


def test_class_maps_are_parsed() -> None:
    assert parse_class_map(["a = b", "c=d=e"]) == {"a": "b", "c": "d=e"}
    for wrong in (["a"], ["=b"], ["a=b", "a=c"]):
        with pytest.raises(InputError, match="wanted MODEL=DATA"):
            parse_class_map(wrong)


def test_no_name_has_two_meanings() -> None:
    names = [name for group in SYNONYMS for name in group]
    assert len({"".join(filter(str.isalnum, name.casefold())) for name in names}) == len(names)


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from(["tv", "TV", "T V", "television", "a", "A", "b", "Bike", "bicycle", "c 1"]), unique=True),
    st.lists(st.sampled_from(["tv", "tv monitor", "a", "A ", "b", "cycle", "c1", "d", "e"]), unique=True),
    st.booleans(),
)
def test_names_are_matched_as_by_comparing_each_with_each(model: list[str], data: list[str], joined: bool) -> None:
    stated = {model[0]: data[-1]} if joined and model and data else {}
    try:
        found = match_classes(model, data, stated)
    except InputError:
        return
    pairs, left = dict(stated), [name for name in data if name not in stated.values()]
    for same in (str, _spelling, _meaning):
        here = {name: other for name in model if name not in pairs for other in left if same(name) == same(other)}
        pairs |= here
        left = [name for name in left if name not in here.values()]
    assert found.pairs == pairs
    assert found.data_only == tuple(left)
    assert found.model_only == tuple(name for name in model if name not in pairs)
