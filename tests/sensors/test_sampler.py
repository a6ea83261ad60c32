"""Time series of sensors, and power: what is in them, not when."""

from __future__ import annotations

import json
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeq.sensors import ina3221, rapl, sampler
from edgeq.sensors.sampler import Sampler, measure_power
from tests.boards import jetson_orin_nano, raspberry_pi_5, write, x86_laptop


def wait_for(condition, what: str) -> None:
    for _ in range(400):
        if condition():
            return
        time.sleep(0.05)
    pytest.fail(what)


def test_a_series_has_a_beginning_and_an_end_and_what_the_board_has(tmp_path):
    root = raspberry_pi_5(tmp_path)
    watching = Sampler(root)
    write(root, {"sys/class/thermal/thermal_zone0/temp": 70_000})
    series = watching.stop()
    first, *_, last = series["entries"]
    assert first.keys() == last.keys() == {"t_s", "cpu_clock", "temperature_c", "cooling", "raspberry_pi"}
    assert first["t_s"] <= last["t_s"]
    assert (first["temperature_c"], last["temperature_c"]) == ({"cpu-thermal": 61.7}, {"cpu-thermal": 70.0})
    assert first["cpu_clock"] == {"policy0": 2400.0}
    assert series["power"] == series["troubles"] == series["gpu_troubles"] == []
    assert 0 <= series["cpu_share"] < 100
    json.dumps(series, allow_nan=False)


def test_entries_come_in_the_order_of_time_beside_what_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sampler, "INTERVAL_S", 0.02)
    watching = Sampler(raspberry_pi_5(tmp_path))
    wait_for(lambda: len(watching._entries.kept) >= 5, "no entries were taken")
    times = [entry["t_s"] for entry in watching.stop()["entries"]]
    assert len(times) >= 6
    assert times == sorted(times)


class LateClock:
    """Stands in for the module `time` and for an event that nobody sets: every wait ends three milliseconds late."""

    def __init__(self, waits: int) -> None:
        self.now_s = 1000.0
        self.waits = waits

    def monotonic(self) -> float:
        return self.now_s

    def monotonic_ns(self) -> int:
        return round(self.now_s * 1e9)

    process_time_ns = monotonic_ns

    def wait(self, timeout_s: float) -> bool:
        self.now_s += timeout_s + 0.003
        self.waits -= 1
        return self.waits < 0


@pytest.mark.parametrize(("board", "entries", "powers"), [(raspberry_pi_5, 30, 0), (jetson_orin_nano, 3, 30)])
def test_ticks_that_come_late_do_not_drop_the_next_one(tmp_path, monkeypatch, board, entries, powers):
    clock = LateClock(waits=30)
    monkeypatch.setattr(sampler, "time", clock)
    monkeypatch.setattr(threading.Thread, "start", lambda _self: None)
    watching = Sampler(board(tmp_path))
    watching._stopping = clock  # type: ignore[assignment]
    watching._run()
    # One more of each is taken at the beginning.
    assert (len(watching._entries.kept), len(watching._powers.kept)) == (1 + entries, powers and 1 + powers)
    times = [entry["t_s"] for entry in watching._entries.kept]
    assert times == pytest.approx(range(entries + 1), abs=0.01)


def test_rails_are_read_between_the_entries(tmp_path, monkeypatch):
    monkeypatch.setattr(sampler, "POWER_INTERVAL_S", 0.005)
    root = jetson_orin_nano(tmp_path)
    watching = Sampler(root)
    wait_for(lambda: len(watching._powers.kept) >= 8, "no powers were read")
    series = watching.stop()
    times = [when for begin_ns, end_ns, _ in series["power"] for when in (begin_ns, end_ns)]
    assert times == sorted(times)
    assert {round(watts, 6) for *_, watts in series["power"]} == {6.048}
    assert len(series["power"]) > len(series["entries"])
    assert series["entries"][0]["ina3221"]["VDD_IN"] == pytest.approx(6.048)


def test_a_reading_in_which_the_rail_for_all_is_missing_does_not_count(tmp_path, monkeypatch):
    """Without it the others would be added up, which is less."""
    monkeypatch.setattr(sampler, "POWER_INTERVAL_S", 0.005)
    root = jetson_orin_nano(tmp_path)
    watching = Sampler(root)
    label = next(root.glob("sys/bus/i2c/drivers/ina3221/1-0040/hwmon/*/in1_label"))
    label.unlink()
    partial = ina3221.read(root)
    assert partial is not None and partial["total_of"] == ["VDD_CPU_GPU_CV", "VDD_SOC"]
    time.sleep(0.05)
    powers = watching.stop()["power"]
    assert {round(watts, 6) for *_, watts in powers} == {6.048}


def test_throttling_within_a_series_is_told(tmp_path):
    root = x86_laptop(tmp_path)
    watching = Sampler(root)
    write(root, {"sys/devices/system/cpu/cpu0/thermal_throttle/package_throttle_count": 8})
    assert watching.stop()["troubles"] == ["throttled against heat: package events 5"]


def test_throttling_before_a_series_is_not(tmp_path):
    assert Sampler(raspberry_pi_5(tmp_path, "0xf0000")).stop()["troubles"] == []


def test_a_machine_without_sensors_has_an_empty_series(tmp_path):
    series = Sampler(tmp_path).stop()
    assert [set(entry) for entry in series["entries"]] == [{"t_s"}, {"t_s"}]
    assert series["power"] == []


@given(st.integers(2, 64), st.integers(1, 2000))
def test_a_long_series_is_thinned_evenly(half_limit, count):
    limit = 2 * half_limit
    series: sampler._Series[int] = sampler._Series(limit)
    for number in range(count):
        series.add(number)
    assert len(series.kept) <= limit
    assert series.kept[0] == 0
    steps = {later - earlier for earlier, later in zip(series.kept, series.kept[1:], strict=False)}
    assert len(steps) <= 1
    # Never thinned more than needed: the end is covered, too.
    assert count - 1 - series.kept[-1] < max(steps, default=1)


def test_power_of_a_machine_that_does_not_tell_it_is_not_waited_for(tmp_path):
    begun = time.monotonic()
    assert measure_power(tmp_path, 3600.0) == {"kind": None, "source": None, "watts": None}
    assert time.monotonic() - begun < 600


def test_rails_go_before_rapl(tmp_path):
    found = measure_power(x86_laptop(jetson_orin_nano(tmp_path)), 0.05)
    assert (found["kind"], found["source"]) == ("rails", "INA3221 VDD_IN")
    assert found["watts"] == pytest.approx(6.048)


def test_idle_power_by_rapl_is_energy_over_time(tmp_path, monkeypatch):
    """A double of the counter: ten watts by the clock, beginning again at zero all the time."""
    wrap = 7_000_000
    monkeypatch.setattr(
        rapl,
        "_zones",
        lambda _root: [("package-0", {"energy_uj": time.monotonic_ns() // 100 % wrap, "max_energy_range_uj": wrap})],
    )
    found = measure_power(tmp_path, 0.3)
    assert (found["kind"], found["source"]) == ("rapl", "RAPL package-0")
    assert found["watts"] == pytest.approx(10, rel=0.5)


def test_power_over_no_time_is_not_known(tmp_path):
    assert measure_power(x86_laptop(tmp_path), 0)["watts"] is None


def test_the_thread_ends_with_the_series(tmp_path):
    before = threading.active_count()
    watching = Sampler(x86_laptop(tmp_path))
    assert threading.active_count() == before + 1
    watching.stop()
    assert threading.active_count() == before
