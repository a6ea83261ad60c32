"""The errors that edgeq raises on purpose.

    EdgeqError                 one clear line for the user, exit code 1
    |-- InputError             a file, folder, image or option value that cannot be used
    |-- ModelError             a model that cannot be loaded, exported, folded or decoded
    |-- MismatchError          two things that do not belong together (ranges of another model, ...)
    |-- DeviceError            a device cannot be reached, or does not do what it was asked
    |-- MissingDependencyError an optional package is needed; the message holds the pip line
    `-- EngineError            an engine refused or failed to run a file

Every message says what was found, what was wanted and the next step.
"""

MAX_MESSAGE = 2000
"""Characters of a message. What was found may be as long as a file, and nobody reads screens of it."""


class EdgeqError(Exception):
    """Base of all errors that are the user's to act on; printed as one line, without a traceback."""

    def __init__(self, message: object = "") -> None:
        said = str(message)
        super().__init__(said if len(said) <= MAX_MESSAGE else f"{said[: MAX_MESSAGE - 3]}...")


class InputError(EdgeqError):
    """A file, folder, image or option value is missing, broken or of the wrong kind."""


class ModelError(EdgeqError):
    """A model cannot be loaded, exported, quantized or decoded."""


class MismatchError(EdgeqError):
    """Two things do not belong together, for example ranges that were collected on another model."""


class EngineError(EdgeqError):
    """An inference engine refused a file or failed while running it."""


class DeviceError(EdgeqError):
    """A device cannot be reached, or does not do what it was asked."""


class MissingDependencyError(EdgeqError):
    """An optional package is not installed."""

    def __init__(self, package: str, extra: str | None, purpose: str) -> None:
        """Takes the extra of edgeq that brings the package, or `None` where the base install should have."""
        requirement = f"'edgeq[{extra}]'" if extra else package
        super().__init__(
            f"{purpose} needs the package {package}, which is not installed; run: pip install {requirement}"
        )
        self.package = package
        self.extra = extra
