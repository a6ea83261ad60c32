"""Notes are left out in one thread, and in no other."""

import contextlib
import logging
import threading
from pathlib import Path

import pytest

import edgeq
from edgeq.exporting.planning import plan
from edgeq.notes import without_notes

ROOMS = ("calibration", "evaluation", "exporting", "sources", "verbs")


def test_one_thread_leaves_notes_out_while_another_one_loses_none(caplog):
    level = logging.getLogger("edgeq").level
    both = threading.Barrier(2, timeout=60)

    def write(name: str, *, silent: bool) -> None:
        for step in range(3):
            if silent:
                # Blocks that begin and end in turns would leave a level of the log as the other one had set it.
                with without_notes():
                    both.wait()
                    plan._log.warning("%s notes %d", name, step)
                    both.wait()
            else:
                both.wait()
                plan._log.warning("%s notes %d", name, step)
                both.wait()
                with without_notes():
                    plan._log.error("%s fails %d", name, step)

    with caplog.at_level(logging.WARNING):
        again = threading.Thread(target=write, args=("again",), kwargs={"silent": True})
        again.start()
        write("first", silent=False)
        again.join()
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"first {what} {step}" for step in range(3) for what in ("notes", "fails")]
    assert logging.getLogger("edgeq").level == level


def test_every_module_that_may_be_asked_to_be_silent_can_be():
    root = Path(edgeq.__file__).parent
    sources = [path for room in ROOMS for path in (root / room).rglob("*.py")]
    assert not [str(path) for path in sources if "logging.getLogger(__name__)" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("error", [None, RuntimeError("no disk")])
def test_notes_come_again_after_the_block_however_it_ends(error, caplog):
    with contextlib.suppress(RuntimeError), without_notes():
        plan._log.warning("left out")
        if error:
            raise error
    plan._log.warning("noted")
    assert [record.getMessage() for record in caplog.records] == ["noted"]
