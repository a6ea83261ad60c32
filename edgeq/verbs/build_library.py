"""Which library `edgeq build` builds a file with, and which of its options that library knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.runtimes.tensorrt.library import LIBRARIES, TENSORRT, TENSORRT_RTX, Library
from edgeq.targets import get_target


def choose_library(
    artifact: Artifact, runtime: str | None, sm: Sequence[str], on_board: Mapping[str, object | None]
) -> Library:
    """Returns what builds a file.

    Args:
        artifact: The file.
        runtime: What is asked for; by default the first library that runs the files of its target.
        sm: Kinds of GPU that are asked for.
        on_board: Option -> what was given for it, of options that only a library that builds on its GPU has.

    Raises:
        InputError: there is no such library, or it does not know one of the options.
    """
    usual = get_target(artifact.target).runtimes if artifact.target else ()
    name = runtime or next((each for each in usual if each in LIBRARIES), TENSORRT.runtime)
    if name not in LIBRARIES:
        raise InputError(f"`runtime` {name}: engines are built for {' or '.join(LIBRARIES)}")
    library = LIBRARIES[name]
    if sm and not library.names_gpus:
        raise InputError(
            f"`sm` {','.join(sm)}: {library.title} builds {artifact.name} for the GPU of this machine; omit `sm`, or "
            f"give `runtime` {TENSORRT_RTX.runtime}"
        )
    if library.names_gpus:
        for option, value in on_board.items():
            if value is not None:
                raise InputError(
                    f"`{option}` {value}: {library.title} quantizes by the Q/DQ nodes of a file alone, and on the GPU; "
                    f"omit `{option}`"
                )
    return library
