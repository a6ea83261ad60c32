"""Whatever a name holds, it arrives as it is, and nothing of it runs."""

from __future__ import annotations

import re
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgeq.deploying.quoting import code_span, one_line, pbtxt_string, plain_name, shell_word
from edgeq.errors import InputError

HOSTILE = "a b$(touch pwned)`touch pwned`'\"\\\n;&|<>*?#~é\t-{}[]%"
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)


@given(st.lists(texts, max_size=8))
@example([HOSTILE, "", "-n", "!"])
@settings(max_examples=20, deadline=None)
def test_a_shell_takes_a_word_as_it_is(words):
    script = "printf '%s\\0' x " + " ".join(map(shell_word, words))
    found = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True).stdout
    assert found.decode().split("\0")[1:-1] == words


def test_no_program_takes_a_nul():
    with pytest.raises(InputError, match="NUL"):
        shell_word("a\0b")


@given(texts)
@example(HOSTILE)
@settings(max_examples=100, deadline=None)
def test_protobuf_reads_a_string_as_it_is(text):
    wrappers = pytest.importorskip("google.protobuf.wrappers_pb2")
    from google.protobuf import text_format

    assert text_format.Parse(f"value: {pbtxt_string(text)}", wrappers.StringValue()).value == text


@given(texts, texts)
@example(HOSTILE, "")
@example("a_b.onnx", "a b.onnx")
@example("a b.onnx", "a\tb.onnx")
@example("A" * 200 + "x.onnx", "A" * 200 + "y.onnx")
def test_names_become_plain_and_stay_different(one, other):
    plain = plain_name(one)
    assert re.fullmatch("[A-Za-z0-9][A-Za-z0-9._-]{0,119}", plain)
    assert plain_name(plain) == plain
    assert (plain == plain_name(other)) == (one == other) or plain in (one, other)


def test_a_plain_name_and_a_suffix_stay():
    assert plain_name("yolox_nano-416.x86.int8.onnx") == "yolox_nano-416.x86.int8.onnx"
    assert re.fullmatch(r"my_net_-[0-9a-f]{8}\.onnx", plain_name("my net!.onnx"))
    assert re.fullmatch(r"rm_-rf-[0-9a-f]{8}\.tflite", plain_name("--rm -rf.tflite"))


@given(texts)
@example(HOSTILE)
@example("`")
@example("a|b``c")
def test_a_code_span_is_one_line_and_one_cell(text):
    span = code_span(text)
    opening = re.match("`+", span)
    assert opening is not None
    ticks = opening[0]
    assert "\n" not in span
    assert "\r" not in span
    assert not re.search(r"(?<!\\)\|", span)
    assert ticks not in re.split("(?<!`)(`+)(?!`)", span)[2:-2]


def test_lines_of_labels_stay_lines():
    assert one_line("a\nb\x1b[0m é") == "a b [0m é"
