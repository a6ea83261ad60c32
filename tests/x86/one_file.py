"""What a file computes and scores in one runtime, for `tests.x86.figures`, which runs this as on another CPU too.

python -m tests.x86.one_file FILE RUNTIME IMAGES DATA WORK COUNT SCORED OUT.npz
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np

from benchmarks.image_sets import ImageSet, image_set
from benchmarks.scored_models import inputs_of, outputs_of, scores
from edgeq.exporting.artifact import Artifact
from edgeq.files import write_json
from edgeq.inputs import evenly_spaced


def fewer(images: ImageSet, count: int, folder: Path) -> ImageSet:
    """Returns a set with at most so many images to score on; the shortened truth is written to the folder."""
    if images.truth.suffix == ".csv":
        lines = evenly_spaced(images.truth.read_text().splitlines(), count)
        path = folder / f"{images.images.name}.{count}.csv"
        path.write_text("\n".join(lines) + "\n")
        return dataclasses.replace(images, truth=path)
    truth = json.loads(images.truth.read_text())
    chosen = evenly_spaced(truth["images"], count)
    ids = {each["id"] for each in chosen}
    truth |= {"images": chosen, "annotations": [each for each in truth["annotations"] if each["image_id"] in ids]}
    path = folder / f"{images.truth.parent.name}.{count}.json"
    write_json(path, truth)
    return dataclasses.replace(images, truth=path)


def main() -> None:
    """Writes the outputs and prints the score as JSON."""
    file, runtime, name, data, work, count, scored, out = sys.argv[1:]
    given = image_set(name, Path(data), Path(work))
    artifact = Artifact.load(Path(file))
    np.savez(out, allow_pickle=False, **outputs_of(artifact, runtime, inputs_of(artifact, given, int(count))))
    found = scores([artifact], runtime, fewer(given, int(scored), Path(work)))
    print(json.dumps(found and found[0]))


if __name__ == "__main__":
    main()
