"""What is read from outside: of the type that is wanted, or one line that says where it is not."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from edgeq import boundary
from edgeq.boundary import Count, convert, parse_json, parse_toml, read_json, read_toml
from edgeq.errors import EngineError, InputError


@dataclasses.dataclass(frozen=True)
class Part:
    name: str
    sizes: tuple[int | None, ...] = ()
    count: Count = 0

    def __post_init__(self) -> None:
        if self.name == "odd":
            raise ValueError("odd parts do not fit")


@dataclasses.dataclass(frozen=True)
class Whole:
    parts: tuple[Part, ...]
    kind: Literal["left", "right"] = "left"
    factor: float = 1.0
    named: Mapping[str, Part] = dataclasses.field(default_factory=dict)
    free: Any = None
    place: Path | None = None


class Closed(msgspec.Struct, forbid_unknown_fields=True):
    width: int = 0
    height: int = 0


def parse(text: str | bytes, wanted: Any = Whole, **options: Any) -> Any:
    content = text.encode() if isinstance(text, str) else text
    return parse_json(content, wanted, source="w.json", kind="a whole", **options)


def test_a_document_becomes_a_value_of_the_type():
    found = parse('{"parts": [{"name": "a", "sizes": [1, null]}], "factor": 2, "place": "x/y", "later": [{}]}')
    assert found == Whole((Part("a", (1, None)),), factor=2.0, place=Path("x/y"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[]", "w.json: is [], wanted keys with values; expected a whole"),
        ("{}", "w.json: has no 'parts'; expected a whole"),
        ('{"parts": 3}', "w.json: $.parts is 3, wanted a list; expected a whole"),
        ('{"parts": [{"name": "a"}, {"sizes": []}]}', "w.json: $.parts[1] has no 'name'; expected a whole"),
        (
            '{"parts": [{"name": "a", "sizes": [1, 2, "3"]}]}',
            "w.json: $.parts[0].sizes[2] is '3', wanted a whole number; expected a whole",
        ),
        (
            '{"parts": [{"name": "a", "count": -1}]}',
            "w.json: $.parts[0].count is -1, wanted a whole number from 0; expected a whole",
        ),
        (
            '{"parts": [{"name": "odd"}]}',
            "w.json: $.parts[0] is {'name': 'odd'}: odd parts do not fit; expected a whole",
        ),
        ('{"parts": [], "kind": "up"}', "w.json: $.kind is 'up', wanted one of left, right; expected a whole"),
        ('{"parts": [], "factor": true}', "w.json: $.factor is True, wanted a number; expected a whole"),
        ('{"parts": [],\n "factor": NaN}', "w.json: is not valid JSON (NaN is not JSON; write null); expected a whole"),
        ('{"factor": -Infinity}', "w.json: is not valid JSON (-Infinity is not JSON; write null); expected a whole"),
        ('{"parts": [],\n "factor": }', "w.json: is not valid JSON (line 2: Expecting value); expected a whole"),
        ('{"parts": [], "factor": 1e400}', "w.json: $.factor is inf: Number out of range; expected a whole"),
        ('{"parts": [], "free": 1e400}', "w.json: $.free is inf: Number out of range; expected a whole"),
        ("", "w.json: is not valid JSON (line 1: Expecting value); expected a whole"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_line_with_its_place(text, said):
    with pytest.raises(InputError) as caught:
        parse(text)
    assert str(caught.value) == said


def test_a_wrong_entry_of_a_map_is_named():
    text = '{"parts": [], "named": {"a": {"name": "x"}, "b\\n\'c": {"name": "y", "sizes": [-1, "2"]}, "d": {}}}'
    with pytest.raises(InputError) as caught:
        parse(text)
    assert str(caught.value).startswith(
        """w.json: $.named["b\\n'c"].sizes[1] is '2', wanted a whole number; expected"""
    )
    with pytest.raises(InputError, match=r"\$\['two'\]\['b'\] is -1, wanted a whole number from 0; expected"):
        parse('{"one": {"a": 1}, "two": {"a": 1, "b": -1}}', dict[str, dict[str, Count]])


def test_the_error_has_the_class_the_advice_and_the_place_of_the_caller():
    with pytest.raises(EngineError) as caught:
        parse('{"name": 3}', Part, place="$.parts['a']", error=EngineError, advice="write it again")
    assert str(caught.value) == "w.json: $.parts['a'].name is 3, wanted text; expected a whole; write it again"


def test_a_closed_type_names_its_keys():
    with pytest.raises(InputError, match=r"has an unknown key 'depth' \(known: width, height\); expected a whole"):
        parse('{"width": 1, "depth": 2}', Closed)


def test_keys_and_values_of_any_length_and_kind_are_one_short_line():
    for text in ('{"de\\npth\\u001b[2J": 2}', '{"%s": 2}' % ("d" * 100_000), '{"width": "%s"}' % ("w" * 100_000)):
        with pytest.raises(InputError) as caught:
            parse(text, Closed, place="$['\n" + "k" * 1000 + "']")
        assert str(caught.value).isprintable() and len(str(caught.value)) < 500


@pytest.mark.parametrize("digits", [20, 401, 5000, 300_000])
@pytest.mark.parametrize("sign", ["", "-"])
def test_integers_beyond_64_bits_are_refused_wherever_they_stand(digits, sign):
    for text in ('{"parts": [], "free": %s}', '{"parts": [], "unknown": [%s]}', '{"parts": [], "factor": %s}'):
        with pytest.raises(InputError, match=f"an integer of {digits} digits, wanted at most 64 bits"):
            parse(text % (sign + "9" * digits))


def test_long_digits_in_texts_and_fractions_are_none_of_them():
    text = json.dumps({"parts": [{"name": "9" * 40}], "factor": 0.1}).replace("0.1", "0.1" + "0" * 60)
    assert parse(text) == Whole((Part("9" * 40),), factor=0.1)
    assert parse(f'{{"parts": [], "free": {2**63 - 1}}}').free == 2**63 - 1


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"a":'])
@pytest.mark.parametrize("levels", [boundary.MAX_DEPTH, 5000, 200_000])
def test_deep_nesting_is_refused_at_once(opening, levels):
    begun = time.process_time()
    for text in (opening * levels, '{"parts": [], "free": ' + opening * levels):
        with pytest.raises(InputError):
            parse(text)
    closing = "".join({"[": "]", "{": "}"}[each] for each in reversed(opening) if each in "[{")
    if levels * len(closing) > boundary.MAX_DEPTH:
        with pytest.raises(InputError, match="is nested deeper than 64 levels"):
            parse('{"parts": [], "free": ' + opening * levels + "1" + closing * levels + "}")
    assert time.process_time() - begun < 20  # a hang, not a speed


def test_the_deepest_nesting_is_read_and_brackets_in_texts_do_not_count():
    free: Any = "[" * 500 + '\\"{' * 100
    for _ in range(boundary.MAX_DEPTH - 2):
        free = [free, "]"]
    assert parse(json.dumps({"parts": [], "free": free})).free == free
    flat = [{"a": "[["}] * 5000
    assert parse(json.dumps({"parts": [], "free": flat})).free == flat


@pytest.mark.parametrize("content", [b"\xff", b'{"parts": [], "free": "\xff"}', b'{"parts": [], "\xff": 1}'])
def test_bytes_that_are_no_text_are_refused(content):
    with pytest.raises(InputError, match=r"w\.json: cannot be read as a whole"):
        parse(content)


def test_a_lone_surrogate_is_refused():
    with pytest.raises(InputError, match=r"w\.json: is not valid JSON"):
        parse('{"parts": [], "free": "\\ud800"}')


def test_files_that_cannot_be_read_are_named(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"none\.json: no such file; expected a whole"):
        read_json(tmp_path / "none.json", Whole, kind="a whole")
    with pytest.raises(InputError, match="cannot be read as a whole"):
        read_json(tmp_path, Whole, kind="a whole")
    (tmp_path / "large.json").write_text('{"parts": []}')
    with pytest.raises(InputError, match=r"large\.json: has more than 12 bytes; expected a whole"):
        read_json(tmp_path / "large.json", Whole, kind="a whole", max_bytes=12)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("width = 1\ndepth = 2", "t.toml: has an unknown key 'depth'"),
        ("width = 1.5", "t.toml: $.width is 1.5, wanted a whole number"),
        ("width = 2020-01-01", "t.toml: $.width is "),
        ("width = inf", "t.toml: holds inf, which is not a finite number"),
        ("width = 1" + "0" * 5000, "t.toml: holds a number of 19 digits or more"),
        ("width = 0x" + "f" * 17, "t.toml: holds an integer of more than 64 bits"),
        ("width = " + "[" * 5000, "t.toml: is not valid TOML"),
        ("a." * 64 + "a = 1", "t.toml: is nested deeper than 64 levels"),
        ("a." * 500_000 + "a = 1", "t.toml: is nested deeper than 64 levels"),
        ('["a"' + " . 'a'" * 100_000 + "]\na = 1", "t.toml: is nested deeper than 64 levels"),
        ("a = " + "[" * 300_000, "t.toml: is not valid TOML"),
        ("width = ", "t.toml: is not valid TOML"),
        ("width = 1\nwidth = 1", "t.toml: is not valid TOML"),
    ],
)
def test_toml_is_held_to_the_same(text, said):
    with pytest.raises(InputError) as caught:
        parse_toml(text.encode(), Closed, source="t.toml", kind="sizes")
    assert str(caught.value).startswith(said) and str(caught.value).endswith("expected sizes")
    assert "\n" not in str(caught.value)


def test_toml_is_read(tmp_path):
    (tmp_path / "t.toml").write_text("width = 3\n")
    assert read_toml(tmp_path / "t.toml", Closed, kind="sizes") == Closed(3, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, [10**20]])
def test_plain_values_are_held_to_the_same(value):
    with pytest.raises(InputError, match=r"not a finite number|more than 64 bits"):
        convert({"parts": [], "free": value}, Whole, source="here", kind="a whole")
