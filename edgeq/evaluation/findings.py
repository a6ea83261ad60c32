"""What a file finds in an image, next to what another file finds and what is true; and how a picture shows that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgeq.files import atomic_path
from edgeq.results.serialization import OMIT_EMPTY
from edgeq.tasks import Task
from edgeq.tasks.agreement import from_threshold
from edgeq.tasks.drawing import Canvas, side_by_side
from edgeq.tasks.evidence import Finding

if TYPE_CHECKING:
    from PIL.Image import Image

_JPEG_QUALITY = 92


@dataclass(frozen=True, kw_only=True)
class ComparedFindings:
    """The shown findings of two files on one image; each is marked by what became of it.

    Attributes:
        reference: Those of the first file.
        other: Those of the other file.
    """

    reference: tuple[Finding, ...]
    other: tuple[Finding, ...]


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """What a file finds in one image.

    Attributes:
        image: Name of the image: its path in its folder, or of a frame its video and number.
        width_px: Width of the image.
        height_px: Height of the image.
        threshold: Score from which findings are shown.
        findings: All that the decoder returns, whatever the score, the best first.
        compared: What it finds next to what another file finds; `None` without one.
    """

    image: str
    width_px: int
    height_px: int
    threshold: float
    findings: tuple[Finding, ...]
    compared: ComparedFindings | None = field(default=None, metadata=OMIT_EMPTY)

    @property
    def shown(self) -> tuple[Finding, ...]:
        """The findings from the threshold on, and those without a score."""
        return from_threshold(self.findings, self.threshold)


def draw_picture(
    task: type[Task[Any]], image: NDArray[np.uint8], panels: Sequence[tuple[str, Sequence[Finding]]]
) -> Image:
    """Returns an image with what is found in it; several panels lie side by side, each under its caption.

    Args:
        task: What draws.
        image: `(H, W, 3)`, RGB.
        panels: Caption and findings of each.
    """
    drawn = []
    for caption, findings in panels:
        canvas = Canvas(image.shape[1], image.shape[0])
        task.draw(canvas, findings)
        drawn.append((caption, canvas.over(image)))
    return drawn[0][1] if len(drawn) == 1 else side_by_side(drawn, canvas.font_px)


def caption(name: str, findings: Sequence[Finding]) -> str:
    """Returns what stands above a picture: a name, how many findings are shown, and what became of them."""
    marks = Counter(finding.mark for finding in findings if finding.mark not in (None, "both"))
    return ", ".join([f"{name}: {len(findings)}", *(f"{mark} {count}" for mark, count in sorted(marks.items()))])


def save_picture(path: Path, picture: Image) -> None:
    """Writes a picture in the format of its suffix, whole or not at all.

    Raises:
        InputError: it cannot be written.
    """
    with atomic_path(path) as temporary:
        picture.save(temporary, quality=_JPEG_QUALITY)
