"""Text regions as other programs read them: the files that ICDAR's evaluation takes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgeq.files import write_text
from edgeq.tasks.evidence import Finding
from edgeq.tasks.result_files import ResultFile
from edgeq.tasks.shapes import Outline


class IcdarText(ResultFile):
    """`res_NAME.txt` for each image: a line `x1,y1,...,x4,y4` in pixels for each piece of text."""

    def add(self, number: int, name: str, size_px: tuple[int, int], findings: Sequence[Finding]) -> None:
        """Writes the file of an image; an empty one says that nothing was found."""
        outlines = [each.corners for each in findings if isinstance(each, Outline)]
        lines = [",".join(f"{round(value)}" for point in corners for value in point) for corners in outlines]
        path = Path(name)
        write_text(self.out / "icdar" / path.with_name(f"res_{path.stem}.txt"), "".join(f"{line}\n" for line in lines))

    def close(self) -> None:
        """Writes nothing: each image has its own file."""
