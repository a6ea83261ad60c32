"""One way to feed and decode a model, as a recogniser proposes it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Candidate:
    """One way to feed and decode a model.

    Attributes:
        preset: As the parameter `preset` takes it: a name, with settings behind commas if they differ.
        family: What people call the models of this form.
        labels: Class names by class index; `None` takes those of the preset.
        labels_source: Where the names are from, for messages.
        classes: How many classes the head has.
        certain: Whether the file states its preparation, as the metadata of an exporter does. Otherwise it is that of
            the family, and annotations can prove it.
    """

    preset: str
    family: str
    classes: int
    labels: tuple[str, ...] | None = None
    labels_source: str = ""
    certain: bool = False

    @property
    def flags(self) -> str:
        """What to write on the command line to take it."""
        quoted = f"'{self.preset}'" if "," in self.preset else self.preset
        return f"`preset` {quoted}"


def with_settings(preset: str, *settings: tuple[str, str, str]) -> str:
    """Returns a preset with settings behind commas.

    Args:
        preset: Its name.
        settings: Name, value, and the value that the preset has anyway, which need not be said.
    """
    return preset + "".join(f",{name}={value}" for name, value, usual in settings if value != usual)
