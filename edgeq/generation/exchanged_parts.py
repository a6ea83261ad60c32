"""Open parts of one bundle whose files are exchanged: what stays the same stays open, and what images give is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from edgeq.bundles.manifest import Bundle
from edgeq.exporting.artifact import Artifact
from edgeq.generation.parts import OpenParts
from edgeq.runtimes import get_runtime
from edgeq.runtimes.base import Arrays, Session

_REMEMBERED = ("vision", "connector")
"""Parts whose outputs are kept: they read the same whatever the parts behind them are."""

_MOST_BYTES = 1 << 29
"""What outputs of a part may take of the memory; more is computed again."""


class ExchangedParts:
    """The parts of one model, in one version after another.

    Args:
        bundle: What they are of.
        runtime: Name of the engine.
        threads: Its CPU threads.
    """

    def __init__(self, bundle: Bundle, runtime: str, threads: int | None) -> None:
        self._bundle = bundle
        self._runtime = runtime
        self._threads = threads
        self._digests: dict[str, str] = {}
        self._sessions: dict[str, Session] = {}
        self._shown: dict[str, Any] = {}

    def opened(self, files: Mapping[str, Artifact]) -> OpenParts:
        """Returns the parts as these files; what has the same digest as before stays open.

        Args:
            files: Name of a part -> its file; they may go once they are open.

        Raises:
            EngineError: the engine refuses a file.
        """
        for part, file in files.items():
            if self._digests.get(part) == file.digest:
                continue
            if part in self._sessions:
                del self._digests[part]
                self._sessions.pop(part).close()
            session = self._sessions[part] = get_runtime(self._runtime)(file, self._threads)
            self._shown[part] = _Remembering(session) if part in _REMEMBERED else session
            self._digests[part] = file.digest
        return OpenParts(self._bundle, self._runtime, dict(self._shown))

    def close(self) -> None:
        """Frees all sessions."""
        for session in self._sessions.values():
            session.close()


class _Remembering:
    """A session that runs each input once.

    Args:
        session: The session.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._known: dict[bytes, Arrays] = {}
        self._bytes = 0

    def run(self, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Returns the outputs of the session, which must not be changed."""
        digest = hashlib.sha256()
        for name, array in sorted(inputs.items()):
            digest.update(f"{name} {array.shape} {array.dtype}".encode() + np.ascontiguousarray(array).tobytes())
        key = digest.digest()
        if key not in self._known:
            found = self._session.run(inputs)
            self._bytes += sum(array.nbytes for array in found.values())
            if self._bytes > _MOST_BYTES:
                return found
            self._known[key] = found
        return self._known[key]
