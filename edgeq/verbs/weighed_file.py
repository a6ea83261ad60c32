"""`WeighedFile`: an INT8 file by its noise and its time, and what one is worth in the other."""

from __future__ import annotations

from dataclasses import dataclass

from edgeq.exporting.artifact import Artifact
from edgeq.exporting.jobs import FileJob
from edgeq.tuning.screening import Screening

TIME_PER_NOISE = 3.0
"""Shares of the time in FP32 that the same share of noise in the signal's power is worth.

Published families of detectors buy 1 % of AP with 6 to 7 % of time (YOLOX-s to -m: 40.5 to 47.2 AP for 26.8 to 73.8
GFLOPs). Noise of 1 % costs about .1 % of the AP (YOLOX-nano) to .8 % (FastestDet): between .7 and 5 % of the time.
"""


@dataclass(frozen=True)
class WeighedFile:
    """An INT8 file by its noise and its time.

    Attributes:
        job: What it is written by.
        noise: Noise in the group of the outputs' channels where it is most, as a share of the signal in 0..1.
        time: What the layers with a choice take by kernel costs, as a share of their time in float; 1 without costs.
    """

    job: FileJob
    noise: float
    time: float

    @classmethod
    def of(cls, job: FileJob, file: Artifact, screening: Screening) -> WeighedFile:
        """Returns what a file that lies on the disk is worth, on the inputs of a screening."""
        costs = file.quantization_facts.kernel_costs
        time = costs.predicted_us / costs.float_us if costs is not None and costs.float_us > 0 else 1.0
        return cls(job, max(screening.noise(file).shares), time)

    def gain_on(self, other: WeighedFile) -> float:
        """Returns what this file has over another, as a share of the time in FP32; negative if the other is better."""
        return TIME_PER_NOISE * (other.noise - self.noise) - (self.time - other.time)
