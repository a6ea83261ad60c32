"""`python -m edgeq.evaluation.prediction_server`: one artifact over many images, on a device, driven by JSON lines.

One JSON object a line comes in on stdin, and one goes out on stdout for each, as with `edgeq.runtimes.runner`:

    {"command": "open", "artifact": "files/net.onnx", "manifest": {...}, "runtime": "onnxruntime", "threads": 4,
     "compute_precision": null}
        says what is run
    {"command": "images", "paths": ["files/1.jpg", ...]}
        adds images, which are known by their positions from here on
    {"command": "next"}
        begins, or goes on; waits for an image -> found, a list of {"position", "size_px" [width, height],
        "inference_s", "elapsed_s" since the image before, "prediction" (see
        `edgeq.evaluation.prediction_codec`)} or {"position", "unreadable" (why)}; environment; done
    {"command": "quit"}
        ends the process

The end of stdin ends the process at once.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgeq.errors import EdgeqError, InputError, ModelError
from edgeq.evaluation.inference import Job, predict_group
from edgeq.evaluation.prediction_codec import pack_prediction
from edgeq.exporting.artifact import parse_manifest
from edgeq.inputs import InputCache, Item, image_files
from edgeq.runtimes.commands import answer_by, field, serve

# How many images the host may be behind: the device's memory is small.
_AHEAD = 64


class _Images:
    """Images without the truth about them, which stays on the host."""

    max_unreadable = 1.0  # the host counts them

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths
        self.sizes_px: dict[int, tuple[int, int]] = {}
        self.begun_s: float | None = None

    @property
    def items(self) -> Sequence[Item]:
        """The images as they are read."""
        return image_files(self.paths)

    def check_image(self, number: int, image: NDArray[np.uint8]) -> None:
        """Notes the size, which the host compares with the annotations."""
        self.begun_s = self.begun_s or time.perf_counter()
        self.sizes_px[number] = (image.shape[1], image.shape[0])


class _StreamedJob(Job):
    """Hands predictions over instead of keeping them."""

    found: queue.Queue[dict[str, Any] | EdgeqError | None]
    images: _Images
    last_s: float | None = None

    def add(self, number: int, prediction: Any, inference_s: float) -> None:
        """Sends what was found in an image."""
        now = time.perf_counter()
        before, self.last_s = self.last_s or self.images.begun_s or now, now
        self.found.put(
            {
                "position": number,
                "size_px": self.images.sizes_px.pop(number),
                "inference_s": inference_s,
                "elapsed_s": now - before,
                "prediction": pack_prediction(self.decoder.task, prediction),
            }
        )


class Predictor:
    """Carries out the commands.

    Attributes:
        quitting: Whether the last command was to quit.
    """

    def __init__(self) -> None:
        self.quitting = False
        self._job: _StreamedJob | None = None
        self._threads: int | None = None
        self._paths: list[Path] = []
        # Images, then an error or `None` for the end.
        self._found: queue.Queue[dict[str, Any] | EdgeqError | None] = queue.Queue(_AHEAD)
        self._started = False
        self._commands = {"open": self._open, "images": self._images, "next": self._next, "quit": self._quit}

    def answer(self, line: bytes) -> dict[str, Any]:
        """Returns the answer to one line of input; errors that are the user's to act on are answers too."""
        return answer_by(self._commands, line)

    def _open(self, command: Mapping[str, Any]) -> dict[str, Any]:
        artifact = parse_manifest(Path(field(command, "artifact", str)), field(command, "manifest", dict))
        pre, post = artifact.preprocessing, artifact.postprocessing
        if pre is None or post is None:
            raise InputError(
                f"{artifact.name}: its manifest says neither how images are prepared nor how outputs are read"
            )
        compute_precision = field(command, "compute_precision", str, type(None))
        self._job = _StreamedJob(artifact, pre, post, field(command, "runtime", str), compute_precision)
        self._threads = field(command, "threads", int, type(None))
        return {}

    def _images(self, command: Mapping[str, Any]) -> dict[str, Any]:
        self._paths += [Path(path) for path in field(command, "paths", list)]
        return {}

    def _next(self, _command: Mapping[str, Any]) -> dict[str, Any]:
        if self._job is None:
            raise InputError("no artifact is open; send the command open first")
        if not self._started:
            self._started = True
            threading.Thread(target=self._work, args=(self._job,), daemon=True).start()
        entries = [self._found.get()]
        with contextlib.suppress(queue.Empty):
            while len(entries) < _AHEAD:
                entries.append(self._found.get_nowait())
        for entry in entries:
            if isinstance(entry, EdgeqError):
                raise entry
        found = [entry for entry in entries if entry is not None]
        return {"found": found, "environment": self._job.environment, "done": None in entries}

    def _quit(self, _command: Mapping[str, Any]) -> dict[str, Any]:
        self.quitting = True
        return {}

    def _work(self, job: _StreamedJob) -> None:
        images = _Images(self._paths)
        job.found, job.images = self._found, images
        try:
            predict_group([job], images, self._threads, self._unreadable, InputCache(0))
            self._found.put(None)
        except EdgeqError as error:
            self._found.put(error)
        except Exception as error:
            self._found.put(ModelError(f"{job.artifact.name}: unexpected {error!r}"))

    def _unreadable(self, position: int, _item: Item, error: InputError) -> None:
        self._found.put({"position": position, "unreadable": str(error)})


def main() -> NoReturn:
    """Answers commands until told to quit."""
    predictor = Predictor()
    serve(predictor.answer, lambda: predictor.quitting)


if __name__ == "__main__":
    main()
