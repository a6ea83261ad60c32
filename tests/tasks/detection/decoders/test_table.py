from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edgeq.errors import InputError, ModelError
from edgeq.exporting.artifact import Postprocessing
from edgeq.tasks import find_decoder
from edgeq.tasks.detection import DECODERS, get_decoder
from edgeq.tasks.detection.decoders import trust_decoders


@pytest.fixture(autouse=True)
def nothing_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEQ_DECODERS", "")


@pytest.mark.parametrize("name", sorted(DECODERS))
def test_every_decoder_of_the_table_loads(name: str) -> None:
    assert callable(get_decoder(name))


def test_a_function_of_ones_own_is_found_by_its_reference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_decoder.py").write_text("def decode(outputs, post, placement):\n    return 'mine'\nNUMBER = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    trust_decoders(["own_decoder:decode", "own_decoder:NUMBER", "own_decoder:missing"])
    assert get_decoder("own_decoder:decode")({}, None, None) == "mine"  # type: ignore[arg-type, comparison-overlap]
    with pytest.raises(InputError, match="found int, wanted a function"):
        get_decoder("own_decoder:NUMBER")
    with pytest.raises(InputError, match="has no 'missing'"):
        get_decoder("own_decoder:missing")


def test_an_unknown_decoder_names_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"unknown decoder 'yolo99'; .*known: blazeface, centernet, "):
        get_decoder("yolo99")


@pytest.mark.parametrize(("content", "message"), [("raise SystemExit(0)", "importing"), ("import sys", "returns")])
def test_a_decoder_that_ends_the_process_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, message: str
) -> None:
    name = f"leaving_{message}"
    (tmp_path / f"{name}.py").write_text(f"{content}\ndef decode(outputs, post, placement):\n    sys.exit(0)\n")
    monkeypatch.syspath_prepend(tmp_path)
    post = Postprocessing(f"{name}:decode")
    trust_decoders([post.decoder])
    with pytest.raises((InputError, ModelError), match="ends the process"):
        find_decoder(post).decode({}, post, None)  # type: ignore[arg-type]


def test_a_file_from_elsewhere_imports_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "planted.py").write_text("raise RuntimeError('imported')\n")
    monkeypatch.syspath_prepend(tmp_path)
    trust_decoders(["planted:other"])
    for name in ("planted:decode", "os:system", "planted:other,planted:decode"):
        with pytest.raises(InputError, match="if you trust it, name it yourself: edgeq `decoder` "):
            find_decoder(Postprocessing(name))
    assert "planted" not in sys.modules
