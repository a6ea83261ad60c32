"""The energy counter of NVIDIA's GPUs, over a pretended NVML with the signatures of its reference."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import pytest

from edgeq.measurement.telemetry import Observations, Window
from edgeq.runtimes.answers import Power
from edgeq.sensors import sampler
from edgeq.sensors.nvidia_gpu import open_gpu_energy


class Nvml:
    """NVML with some GPUs, whose counter rises by 250 mJ with each reading."""

    def __init__(self, gpus: int = 1, *, counts: bool = True, starts: bool = True) -> None:
        self.gpus, self.counts, self.starts = gpus, counts, starts
        self.millijoules = 2**40

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0 if self.starts else 9

    def nvmlDeviceGetCount_v2(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.gpus
        return 0

    def nvmlDeviceGetHandleByIndex_v2(self, index: int, handle: Any) -> int:  # noqa: N802
        handle._obj.value = 7
        return 0 if index == 0 else 6

    def nvmlDeviceGetName(self, handle: Any, name: Any, length: int) -> int:  # noqa: N802
        assert handle.value == 7 and length == ctypes.sizeof(name)
        name.value = b"NVIDIA GeForce RTX 4090"
        return 0

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: Any, energy: Any) -> int:  # noqa: N802
        assert handle.value == 7
        self.millijoules += 250
        energy._obj.value = self.millijoules
        return 0 if self.counts else 3


def test_the_counter_is_read_in_joules():
    energy = open_gpu_energy(Path("/"), Nvml())
    assert energy is not None and "GeForce RTX 4090" in energy.source
    first, second = energy.read_j(), energy.read_j()
    assert first is not None and second is not None and second - first == pytest.approx(0.25)


@pytest.mark.parametrize("library", [Nvml(0), Nvml(2), Nvml(counts=False), Nvml(starts=False)])
def test_what_does_not_tell_one_gpus_energy_is_not_read(library):
    assert open_gpu_energy(Path("/"), library) is None


def test_a_tree_of_files_has_no_gpu(tmp_path):
    assert open_gpu_energy(tmp_path) is None


def test_idle_power_is_that_of_the_card_beside_that_of_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(sampler, "open_gpu_energy", lambda _root: open_gpu_energy(Path("/"), Nvml()))
    found = sampler.measure_power(tmp_path, 0.05)
    assert found["kind"] is None and "RTX 4090" in found["gpu_source"]
    assert 0 < found["gpu_watts"] <= 0.25 / 0.05


def test_an_engine_on_the_gpu_takes_what_the_card_counted_and_others_what_rapl_did():
    observed = Observations(power=Power("rapl", "RAPL package-0", 10.0, "NVML card", 20.0))
    second = 10**9
    on_gpu = observed.energy([Window(0, second, 5.0, 30.0), Window(second, 2 * second, 5.0, 50.0)], 40)
    assert on_gpu is not None
    assert (on_gpu.j_per_image, on_gpu.source, on_gpu.idle_share) == (2.0, "NVML card", 0.5)
    on_cpu = observed.energy([Window(0, second, 5.0)], 10)
    assert on_cpu is not None
    assert (on_cpu.j_per_image, on_cpu.source, on_cpu.idle_watts) == (0.5, "RAPL package-0", 10.0)
