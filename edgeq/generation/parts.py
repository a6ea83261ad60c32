"""The parts of a bundle, open in an engine."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from edgeq.bundles.contents import BundlePart
from edgeq.bundles.manifest import Bundle
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.exporting.tensor_spec import TensorSpec
from edgeq.runtimes import default_runtime, get_runtime
from edgeq.runtimes.base import Arrays, Session


@dataclass(frozen=True)
class OpenParts:
    """Sessions of the parts of one bundle. A context manager that closes them.

    Attributes:
        bundle: What they are of.
        runtime: Name of the engine.
        sessions: Part -> its session.
    """

    bundle: Bundle
    runtime: str
    sessions: Mapping[str, Session]

    @classmethod
    def open(
        cls, bundle: Bundle, runtime: str | None = None, threads: int | None = None, only: Sequence[str] = ()
    ) -> OpenParts:
        """Returns the parts, each loaded by the engine.

        Args:
            bundle: The bundle.
            runtime: `onnxruntime` or `openvino`; by default the first one of the bundle's target.
            threads: CPU threads of the engine.
            only: Parts to open; by default all.

        Raises:
            InputError: there is no such runtime, or it does not read ONNX files.
            EngineError: the engine refuses a file.
            MissingDependencyError: it is not installed.
        """
        artifacts = {
            str(part.name): artifact_of(bundle, part) for part in bundle.parts if not only or part.name in only
        }
        chosen = runtime or default_runtime(next(iter(artifacts.values())))
        engine = get_runtime(chosen)
        if "onnx" not in engine.formats:
            raise InputError(f"`runtime` {chosen}: does not read ONNX files; wanted onnxruntime or openvino")
        with contextlib.ExitStack() as stack:
            sessions = {name: stack.enter_context(engine(each, threads)) for name, each in artifacts.items()}
            stack.pop_all()
        return cls(bundle, chosen, sessions)

    def run(self, part: str, inputs: Mapping[str, np.ndarray]) -> Arrays:
        """Returns the outputs of a part; of the inputs it gets those that it has.

        Raises:
            InputError: the bundle has no such part, or an input is missing or of another shape.
            EngineError: the engine failed.
        """
        wanted = self.bundle.require_part(part).inputs
        return self.sessions[part].run({each.name: inputs[each.name] for each in wanted if each.name in inputs})

    def close(self) -> None:
        """Frees all sessions."""
        for session in self.sessions.values():
            session.close()

    def __enter__(self) -> OpenParts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def artifact_of(bundle: Bundle, part: BundlePart) -> Artifact:
    """Returns a part as an engine opens it."""
    inputs, outputs = (
        tuple(
            TensorSpec(each.name, each.dtype, tuple(axis if isinstance(axis, int) else None for axis in each.shape))
            for each in tensors
        )
        for tensors in (part.inputs, part.outputs)
    )
    return Artifact(
        path=bundle.folder / part.model.file,
        format="onnx",
        precision=part.precision,
        target=bundle.target,
        inputs=inputs,
        outputs=outputs,
        preprocessing=None,
        digest=part.model.sha256,
        source_digest=bundle.source_digest,
    )


def precision_of(bundle: Bundle) -> str:
    """Returns the precision of all parts if they share one, or else each part's: `vision=fp16,decoder=w4g128`."""
    precisions = {part.name: part.precision for part in bundle.parts}
    if len(set(precisions.values())) == 1:
        return bundle.parts[0].precision
    return ",".join(f"{name}={precision}" for name, precision in precisions.items())
