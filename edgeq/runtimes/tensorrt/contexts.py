"""Execution contexts: of TensorRT as they are, of TensorRT for RTX with CUDA graphs and a cache of compiled kernels.

TensorRT for RTX finishes an engine's kernels on the GPU that runs it, which takes seconds; its cache keeps them for the
next process. It rejects a cache of another version, driver or GPU by itself, and then begins a new one.
"""

from __future__ import annotations

import contextlib
import logging
from pathlib import Path
from typing import Any, Literal

from edgeq.errors import EdgeqError, EngineError
from edgeq.exporting.artifact import Artifact
from edgeq.files import cache_folder, write_bytes
from edgeq.runtimes.tensorrt.library import Messages

CacheState = Literal["loaded", "new"]

_FOLDER = "tensorrt-rtx"

_log = logging.getLogger(__name__)


class Context:
    """An execution context, and what has to live as long as it does.

    Args:
        trt: The library.
        engine: Its engine.
        artifact: The file that the engine came from.
        messages: What the library says meanwhile.
        cuda_graph: Whether the library captures the kernels and launches them in one call, where it does so by itself.

    Attributes:
        handle: The library's object; `None` if it made none.
        captures: Whether the library captures CUDA graphs by itself, so that nobody else should.
        cache_state: Whether its compiled kernels were found; `None` where nothing is compiled.
    """

    def __init__(self, trt: Any, engine: Any, artifact: Artifact, messages: Messages, *, cuda_graph: bool) -> None:
        self.captures = hasattr(trt, "CudaGraphStrategy")
        self.cache_state: CacheState | None = None
        self._cache: Any = None
        self._config: Any = None
        self._path: Path | None = None
        if not hasattr(trt, "IRuntimeCache"):
            self.handle = engine.create_execution_context()
            return
        self._config = engine.create_runtime_config()
        if cuda_graph:
            self._config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        self._path = cache_folder() / _FOLDER / f"{artifact.digest}.kernels"
        self._load_cache(messages)
        self.handle = engine.create_execution_context(runtime_config=self._config)

    def _load_cache(self, messages: Messages) -> None:
        self._cache = self._config.create_runtime_cache()
        assert self._path is not None  # noqa: S101 - the caller has set it
        with contextlib.suppress(OSError):
            if self._cache.deserialize(blob=self._path.read_bytes()):
                self.cache_state = "loaded"
        if not self._config.set_runtime_cache(cache=self._cache):
            raise EngineError(f"TensorRT for RTX takes no cache of compiled kernels; {messages.said()}")
        self.cache_state = self.cache_state or "new"

    def close(self) -> None:
        """Frees the context, and keeps what was compiled for it."""
        self.handle = None
        if self._cache is not None and self.cache_state == "new":
            assert self._path is not None  # noqa: S101 - there is none without a cache
            try:
                write_bytes(self._path, bytes(self._cache.serialize()))
            except (EdgeqError, TypeError) as error:  # the next process compiles again
                _log.info("compiled kernels were not kept (%s)", error)
        self._config = self._cache = None
