"""`python -m edgeq.tuning.workers_server`: predicts images for a search elsewhere, driven by JSON lines.

One JSON object a line comes in on stdin, and one goes out on stdout for each, as with `edgeq.runtimes.runner`:

    {"command": "about", "runtime": "openvino"}
        -> facts, what decides what a file predicts: versions and instruction sets
    {"command": "know", "files": {DIGEST: PATH, ...}}
        takes files that lie on this machine, if their content has that digest
    {"command": "predict", "file": DIGEST, "manifest": {...}, "runtime": "openvino", "threads": 1,
     "compute_precision": "f32", "images": [{"digest": DIGEST, "is_array": false, "size_px": [640, 480]}, ...]}
        -> missing, the digests of files that are not here; or else found, a list of {"position", "size_px" [width,
        height], "prediction" (see `edgeq.evaluation.prediction_codec`)} or {"position", "unreadable" (why)}
    {"command": "answer", "bundle": {...}, "parts": {"vision": {"file": DIGEST, "manifest": {...}}, ...},
     "runtime": "onnxruntime", "threads": 1, "max_tokens": 32, "batch": 50, "prompts": [DIGEST, ...]}
        -> missing; or else found, a list of {"position", "tokens"} (see `edgeq.tuning.answering`)

A worker of a Dask cluster carries out the same commands; it is sent files that are not on its machine (`put`).
"""

from __future__ import annotations

import dataclasses
import re
import tempfile
import threading
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

import edgeq
from edgeq.errors import EdgeqError, InputError, MismatchError, ModelError
from edgeq.evaluation.evaluate import make_job
from edgeq.evaluation.inference import Job, predict_group
from edgeq.evaluation.prediction_codec import pack_prediction
from edgeq.exporting.artifact import parse_manifest
from edgeq.files import sha256_file, write_bytes
from edgeq.inputs import ImageFile, InputCache, Item
from edgeq.inputs.items import ArrayFile
from edgeq.machine import read_machine
from edgeq.runtimes import get_runtime
from edgeq.runtimes.commands import answer_by, field, serve
from edgeq.tuning.answering import Answering
from edgeq.tuning.machine_lock import shared_machine

_CACHE_BYTES = 256 << 20
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUFFIX = re.compile(r"(\.[A-Za-z0-9]{1,16})?")
_KEPT_MODELS = 4


def worker_facts(runtime: str) -> dict[str, str]:
    """Returns what decides, beside the file and its image, what a file predicts: name -> version or description.

    Raises:
        EdgeqError: the engine is not installed.
    """
    import PIL

    session, machine = get_runtime(runtime), read_machine()
    engine = session.import_engine()
    return {
        "edgeq": edgeq.__version__,
        session.package: str(getattr(engine, "__version__", "of an unknown version")),
        "numpy": np.__version__,
        "Pillow": PIL.__version__,
        "CPU": " ".join([machine.architecture, *machine.cpu_features]),
    }


class WorkerFiles:
    """Files by the digest of their content: some lie elsewhere on this machine, those that were sent in a folder.

    Args:
        folder: Where files lie that were sent; of model files the last few are kept.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, Path] = {}
        self._models: list[str] = []

    def path(self, digest: str) -> Path:
        """Returns where a file lies."""
        return self._paths[digest]

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Returns those of the digests whose files are not here."""
        nowhere = Path()
        return [digest for digest in dict.fromkeys(digests) if not self._paths.get(digest, nowhere).is_file()]

    def know(self, digest: str, path: Path) -> None:
        """Takes a file of this machine.

        Raises:
            InputError: it cannot be read.
            MismatchError: it has another digest.
        """
        try:
            found = sha256_file(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror})") from error
        if found != digest:
            raise MismatchError(f"{path}: has changed (SHA-256 {found[:12]}, wanted {digest[:12]}); start again")
        self._paths[digest] = path

    def put(self, digest: str, suffix: str, offset: int, content: bytes, *, is_last: bool) -> None:
        """Takes a piece of a file; the pieces come in order.

        Raises:
            InputError: it cannot be written, or its digest or suffix is none.
            MismatchError: the whole file has another digest.
        """
        if not (_DIGEST.fullmatch(digest) and _SUFFIX.fullmatch(suffix)):
            raise InputError(f"a file {digest[:80]!r} with suffix {suffix[:20]!r}; wanted a SHA-256 and a suffix")
        path = self._folder / f"{digest}{suffix}"
        if offset == 0 and is_last:
            write_bytes(path, content)
        else:
            part = path.with_name(f"{path.name}.part")
            self._append(part, offset, content)
            if not is_last:
                return
            part.replace(path)
        self.know(digest, path)

    def drop_old_models(self, *newest: str) -> None:
        """Removes model files that were sent, but for the last few: a search makes hundreds.

        Args:
            newest: Digests of those that are needed now; of models in parts twice as many are kept.
        """
        self._models = [digest for digest in self._models if digest not in newest]
        self._models += dict.fromkeys(newest)
        for digest in self._models[: -max(_KEPT_MODELS, 2 * len(newest))]:
            self._models.remove(digest)
            path = self._paths.pop(digest)
            if path.parent == self._folder:
                path.unlink(missing_ok=True)

    def _append(self, part: Path, offset: int, content: bytes) -> None:
        try:
            part.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb" if offset == 0 else "r+b") as stream:
                stream.seek(offset)
                stream.write(content)
        except OSError as error:
            raise InputError(f"{part}: cannot be written ({error.strerror}); free space on the worker") from error


@dataclasses.dataclass(frozen=True)
class _Image:
    """An image that is wanted: its digest, whether it is an array file, and the size that its annotations state."""

    digest: str
    is_array: bool
    size_px: tuple[int, int] | None


class WorkerServer:
    """Carries out the commands, one at a time.

    Args:
        folder: Where files lie that were sent.
    """

    def __init__(self, folder: Path) -> None:
        self._files = WorkerFiles(folder)
        self._cache = InputCache(_CACHE_BYTES)
        self._sizes: dict[_Image, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._answering = Answering()
        self._commands = {
            "about": self._about, "know": self._know, "predict": self._predict, "answer": self._answer
        }  # fmt: skip

    def answer(self, line: bytes, content: bytes = b"") -> dict[str, Any]:
        """Returns the answer to a command; errors that are the user's to act on are answers too.

        Args:
            line: The command.
            content: The content that the command `put` sends.
        """
        with self._lock:
            return answer_by({**self._commands, "put": lambda command: self._put(command, content)}, line)

    def _about(self, command: Mapping[str, Any]) -> dict[str, Any]:
        return {"facts": worker_facts(field(command, "runtime", str))}

    def _know(self, command: Mapping[str, Any]) -> dict[str, Any]:
        for digest, path in field(command, "files", dict).items():
            self._files.know(digest, Path(path))
        return {}

    def _put(self, command: Mapping[str, Any], content: bytes) -> dict[str, Any]:
        begin = 0
        for piece in field(command, "pieces", list):
            end = begin + field(piece, "length", int)
            digest, suffix = field(piece, "digest", str), field(piece, "suffix", str)
            is_last = field(piece, "is_last", bool)
            self._files.put(digest, suffix, field(piece, "offset", int), content[begin:end], is_last=is_last)
            begin = end
        return {}

    def _predict(self, command: Mapping[str, Any]) -> dict[str, Any]:
        model = field(command, "file", str)
        images = [
            _Image(each["digest"], each["is_array"], None if each["size_px"] is None else tuple(each["size_px"]))
            for each in field(command, "images", list)
        ]
        if missing := self._files.missing([model, *(image.digest for image in images)]):
            return {"missing": missing}
        self._files.drop_old_models(model)
        path = self._files.path(model)
        stated = parse_manifest(path, field(command, "manifest", dict))
        runtime, compute = field(command, "runtime", str), field(command, "compute_precision", str, type(None))
        job = make_job(dataclasses.replace(stated, path=path), runtime, compute)
        wanted = _Wanted(images, self._files, self._sizes)
        try:
            cache, threads = _CacheByImage(self._cache, images), field(command, "threads", int, type(None))
            predict_group([job], wanted, threads, wanted.skip, cache, shared_machine)
        except EdgeqError:
            raise
        except Exception as error:
            raise ModelError(f"{job.artifact.name}: unexpected {error!r}") from error
        return {"found": [*wanted.skipped, *(wanted.found(job, position) for position in job.predictions)]}

    def _answer(self, command: Mapping[str, Any]) -> dict[str, Any]:
        models, prompts = self._answering.digests(command)
        if missing := self._files.missing([*models, *prompts]):
            return {"missing": missing}
        self._files.drop_old_models(*models)
        paths = {digest: self._files.path(digest) for digest in (*models, *prompts)}
        return {"found": self._answering.answer(command, paths)}


class _Wanted:
    """Images without the truth about them, which stays with whoever asked."""

    max_unreadable = 1.0  # who asked counts them

    def __init__(self, images: Sequence[_Image], files: WorkerFiles, sizes: dict[_Image, tuple[int, int]]) -> None:
        self._images = images
        self._sizes = sizes
        self.paths = [files.path(image.digest) for image in images]
        self.skipped: list[dict[str, Any]] = []

    @property
    def items(self) -> Sequence[Item]:
        """The images as they are read."""
        return [
            ArrayFile(path) if image.is_array else ImageFile(path, image.size_px)
            for image, path in zip(self._images, self.paths, strict=True)
        ]

    def check_image(self, number: int, image: NDArray[np.uint8]) -> None:
        """Notes the size, which whoever asked compares with the annotations."""
        self._sizes[self._images[number]] = (image.shape[1], image.shape[0])

    def skip(self, position: int, _item: Item, error: InputError) -> None:
        """Notes an image that cannot be read."""
        self.skipped.append({"position": position, "unreadable": str(error)})

    def found(self, job: Job, position: int) -> dict[str, Any]:
        """Returns what was found in an image."""
        packed = pack_prediction(job.decoder.task, job.predictions[position])
        return {"position": position, "size_px": self._sizes[self._images[position]], "prediction": packed}


class _CacheByImage(InputCache):
    """Prepared inputs of a worker, by image instead of by its position in a piece of work."""

    def __init__(self, cache: InputCache, images: Sequence[_Image]) -> None:
        super().__init__(0)
        self._cache = cache
        self._images = images

    def get(self, key: Hashable) -> Any:
        """Returns what is kept of a pre-processing and a position."""
        return self._cache.get(self._of_image(key))

    def put(self, key: Hashable, value: Any, size_bytes: int) -> None:
        """Keeps a value if it still fits."""
        self._cache.put(self._of_image(key), value, size_bytes)

    def _of_image(self, key: Any) -> Hashable:
        preprocessing, position = key
        return preprocessing, self._images[position]


def main() -> NoReturn:
    """Answers commands until the end of stdin."""
    # Nothing is sent to this process: the files that it knows lie elsewhere.
    server = WorkerServer(Path(tempfile.gettempdir()))
    serve(server.answer, lambda: False)


if __name__ == "__main__":
    main()
