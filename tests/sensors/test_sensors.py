"""What is read of boards, from trees of files; and that nothing which a file holds is an exception."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeq.sensors import (
    SENSORS,
    cooling,
    find_troubles,
    ina3221,
    jetson_gpu,
    nvidia_gpu,
    power_mode,
    rapl,
    raspberry_pi,
    read_load_average,
    read_sensors,
    x86_throttle,
)
from edgeq.sensors.base import ask, listed, parse_int, read_text, unique
from edgeq.sensors.cpu_clock import CpuClock
from edgeq.sensors.jetson_gpu import GpuClock
from tests.boards import (
    jetson_orin_nano,
    jetson_xavier_jetpack_4,
    policy,
    program,
    raspberry_pi_5,
    write,
    x86_laptop,
)

BOARDS = {"jetson": jetson_orin_nano, "pi": raspberry_pi_5, "laptop": x86_laptop}


def known(root: Path) -> dict[str, object]:
    return {kind: reading for kind, reading in read_sensors(root).items() if reading is not None}


def test_a_machine_without_sensors_tells_nothing(tmp_path):
    assert read_sensors(tmp_path) == dict.fromkeys(SENSORS)
    assert read_load_average(tmp_path) is None
    assert (CpuClock(tmp_path).read_mhz(), GpuClock(tmp_path).read_mhz()) == (None, None)
    assert not rapl.is_locked(tmp_path)


def test_this_machine_can_be_read():
    json.dumps(read_sensors(), allow_nan=False)
    loads = read_load_average()
    assert loads is None or len(loads) == 3


def test_a_jetson_orin_nano(tmp_path):
    found = known(jetson_orin_nano(tmp_path))
    assert found == {
        "cpu_clock": {
            "policy0": {
                "mhz": 1510.4,
                "min_mhz": 800.0,
                "max_mhz": 1510.4,
                "hardware_max_mhz": 1510.4,
                "governor": "schedutil",
                "cpus": [0, 1, 2, 3],
            },
            "policy4": {
                "mhz": 729.6,
                "min_mhz": 800.0,
                "max_mhz": 1510.4,
                "hardware_max_mhz": 1510.4,
                "governor": "schedutil",
                "cpus": [4, 5],
            },
        },
        "temperature_c": {"cpu-thermal": 49.25, "gpu-thermal": 48.406},  # the zone at -256 degrees is off
        "cooling": {"pwm-fan": {"state": 2, "max_state": 10}, "cpufreq-cpu0": {"state": 0, "max_state": 16}},
        "overcurrent": {"oc1": 0, "oc3": 7},
        "ina3221": {
            "rails": {
                "VDD_IN": {"volts": 5.04, "amperes": 1.2, "watts": pytest.approx(6.048)},
                "VDD_CPU_GPU_CV": {"volts": 5.032, "amperes": 0.32, "watts": pytest.approx(1.61024)},
                "VDD_SOC": {"volts": 5.024, "amperes": 0.28, "watts": pytest.approx(1.40672)},
            },
            "total_watts": pytest.approx(6.048),
            "total_of": ["VDD_IN"],
        },
        "jetson_gpu": {
            "mhz": pytest.approx(611.999744),
            "min_mhz": pytest.approx(305.999872),
            "max_mhz": pytest.approx(624.75),
            "governor": "nvhost_podgov",
            "load_percent": 41.7,
        },
        "power_mode": "15W",
    }
    assert read_load_average(tmp_path) == [0.52, 0.40, 0.31]
    assert GpuClock(tmp_path).read_mhz() == pytest.approx(611.999744)


def test_old_jetsons_have_another_driver_and_no_rail_for_all(tmp_path):
    found = ina3221.read(jetson_xavier_jetpack_4(tmp_path))
    assert found is not None
    assert list(found["rails"]) == found["total_of"] == ["GPU", "CPU", "SOC", "CV", "VDDRQ"]
    assert found["total_watts"] == pytest.approx(19 * 0.230)


def test_a_raspberry_pi_5(tmp_path):
    found = known(raspberry_pi_5(tmp_path))
    assert set(found) == {"cpu_clock", "temperature_c", "cooling", "raspberry_pi"}
    assert found["raspberry_pi"] == {"now": [], "since_boot": [], "under_voltage_alarm": False}
    assert found["temperature_c"] == {"cpu-thermal": 61.7}


def test_a_pi_without_the_program_still_tells_under_voltage(tmp_path):
    raspberry_pi_5(tmp_path)
    (tmp_path / "usr/bin/vcgencmd").unlink()
    write(tmp_path, {"sys/class/hwmon/hwmon2/in0_lcrit_alarm": 1})
    reading = raspberry_pi.read(tmp_path)
    assert reading == {"now": None, "since_boot": None, "under_voltage_alarm": True}
    assert raspberry_pi.SENSOR.troubles([reading]) == ["Raspberry Pi: under-voltage"]


def test_an_x86_laptop(tmp_path):
    found = known(x86_laptop(tmp_path))
    assert set(found) == {"cpu_clock", "temperature_c", "cooling", "x86_throttle", "rapl"}
    assert found["temperature_c"] == {"acpitz": 43.0, "acpitz#2": 27.8}
    assert found["x86_throttle"] == {"core": 11, "package": 6}
    # Cores and graphics are parts of the package, and the platform and the second interface count it again.
    assert found["rapl"] == {
        "package-0": {"energy_uj": 1_000_000, "max_energy_range_uj": 262_143_328_850},
        "dram": {"energy_uj": 200_000, "max_energy_range_uj": 262_143_328_850},
    }


def test_the_clock_is_that_of_the_fastest_cpu_in_question(tmp_path):
    x86_laptop(tmp_path)
    assert CpuClock(tmp_path).read_mhz() == 3400
    pinned = CpuClock(tmp_path, [1])
    assert pinned.read_mhz() == 1100
    write(tmp_path, policy(1, "1", 2_000_000))
    assert pinned.read_mhz() == 2000


def test_counters_that_only_root_may_read_are_told_apart_from_none(tmp_path):
    x86_laptop(tmp_path)
    assert not rapl.is_locked(tmp_path)
    for counter in (tmp_path / "sys/class/powercap").glob("*/energy_uj"):
        counter.unlink()
        counter.mkdir()  # fails to be read for root, too
    assert rapl.read(tmp_path) is None
    assert rapl.is_locked(tmp_path)


def zones(**microjoules: int) -> dict[str, dict[str, int]]:
    return {name: {"energy_uj": energy, "max_energy_range_uj": 1_000_000} for name, energy in microjoules.items()}


@pytest.mark.parametrize(
    ("before", "after", "joules"),
    [
        (zones(package=100), zones(package=600_100), 0.6),
        (zones(package=900_000), zones(package=100_000), 0.2),  # it began again at zero
        (zones(package=900_000, dram=5), zones(package=0, dram=100_005), 0.2),
        (zones(package=5), zones(package=5), 0.0),
        (zones(package=5), zones(package=5, dram=5), None),
        (zones(package=5), None, None),
        (None, zones(package=5), None),
    ],
)
def test_energy_between_two_readings(before, after, joules):
    assert rapl.joules(before, after) == (None if joules is None else pytest.approx(joules))


@given(st.integers(1, 10**12), st.data())
def test_a_counter_that_wraps_once_loses_nothing(wrap, data):
    begin = data.draw(st.integers(0, wrap - 1))
    used = data.draw(st.integers(0, wrap - 1))
    first = {"package-0": {"energy_uj": begin, "max_energy_range_uj": wrap}}
    last = {"package-0": {"energy_uj": (begin + used) % wrap, "max_energy_range_uj": wrap}}
    assert rapl.joules(first, last) == pytest.approx(used / 1e6)


@pytest.mark.parametrize(
    ("answer", "bits"),
    [
        ("throttled=0x50005", 0x50005),
        ("throttled=0x0\n", 0),
        ("throttled=50005", None),
        ("throttled=0x50005 and more", None),
        ("VCHI initialization failed", None),
        ("", None),
        (None, None),
    ],
)
def test_the_answer_of_vcgencmd(answer, bits):
    assert raspberry_pi.parse(answer) == bits


def pi(now: list[str], since_boot: list[str], *, alarm: bool | None = False) -> dict[str, object]:
    return {"now": now, "since_boot": since_boot, "under_voltage_alarm": alarm}


def test_flags_of_now_and_those_that_came_and_went(tmp_path):
    reading = raspberry_pi.read(raspberry_pi_5(tmp_path, "0x50005"))
    assert reading == pi(["under-voltage", "throttled"], ["under-voltage", "throttled"])
    troubles = raspberry_pi.SENSOR.troubles
    # What was before the run began is no trouble of the run.
    assert troubles([pi([], ["throttled"]), pi([], ["throttled"])]) == []
    assert troubles([pi([], []), pi([], ["clock capped"])]) == ["Raspberry Pi: clock capped"]
    between = [pi([], []), pi(["soft temperature limit"], []), pi([], [])]
    assert troubles(between) == ["Raspberry Pi: soft temperature limit"]


def test_counters_count_what_they_rose_by_and_fans_slow_nothing(tmp_path):
    x86_laptop(tmp_path / "laptop")
    first = x86_throttle.read(tmp_path / "laptop")
    assert x86_throttle.SENSOR.troubles([first, first]) == []
    write(tmp_path / "laptop", {"sys/devices/system/cpu/cpu1/thermal_throttle/core_throttle_count": 9})
    later = x86_throttle.read(tmp_path / "laptop")
    assert x86_throttle.SENSOR.troubles([first, later]) == ["throttled against heat: core events 3"]

    brief = cooling.SENSOR.brief
    assert brief is not None
    for board in (x86_laptop, jetson_orin_nano, raspberry_pi_5):
        root = board(tmp_path / board.__name__)
        assert cooling.SENSOR.troubles([brief(cooling.read(root))]) == []
    states = [{"cpufreq-cpu0": 0, "pwm-fan": 9}, {"cpufreq-cpu0": 4, "pwm-fan": 9}, {"cpufreq-cpu0": 1, "pwm-fan": 9}]
    assert cooling.SENSOR.troubles(states) == ["throttled against heat: cooling device cpufreq-cpu0 at state 4"]
    assert len(cooling.SENSOR.troubles([{"Processor": 1, "thermal-cpufreq-0": 2, "TCC Offset": 3}])) == 2


# What nvidia-smi prints by its documentation; no such GPU was at hand.
SMI = "NVIDIA H100 80GB HBM3, 34, P0, 118.32, 1980, 0x0000000000000000"
SMI_HOT = "NVIDIA GeForce RTX 4090, 84, P2, [N/A], 1980, 0x0000000000000024\nNVIDIA T4, N/A, [N/A], 27.1, 300, 0x1"


def test_the_table_of_nvidia_smi(tmp_path):
    script = f"case \"$1$2\" in --query-gpu=name,*--format=csv,noheader,nounits) echo '{SMI}';; *) exit 2;; esac"
    assert nvidia_gpu.read(program(tmp_path, "nvidia-smi", script)) == [
        {
            "name": "NVIDIA H100 80GB HBM3",
            "temperature_c": 34,
            "pstate": "P0",
            "watts": 118.32,
            "mhz": 1980,
            "throttling": [],
        }
    ]
    hot = nvidia_gpu.parse(SMI_HOT)
    assert hot is not None
    assert (hot[0]["watts"], hot[0]["throttling"]) == (None, ["power cap", "software thermal slowdown"])
    assert (hot[1]["temperature_c"], hot[1]["pstate"], hot[1]["throttling"]) == (None, None, [])  # idle is none
    entries = [{"nvidia_gpu": hot}]
    assert find_troubles(entries, on_gpu=False) == []
    assert find_troubles(entries, on_gpu=True) == [
        "GPU NVIDIA GeForce RTX 4090: power cap",
        "GPU NVIDIA GeForce RTX 4090: software thermal slowdown",
    ]


def test_the_power_mode_is_found_on_the_search_path_of_this_machine_only(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert power_mode.read(Path("/")) is None
    (program(tmp_path, "nvpmodel", "echo 'NV Power Mode: MAXN_SUPER'; echo 2") / "usr/bin/nvpmodel").rename(
        tmp_path / "nvpmodel"
    )
    assert power_mode.read(Path("/")) == "MAXN_SUPER"
    assert power_mode.read(tmp_path / "other") is None


@pytest.mark.parametrize(
    "script",
    [
        "exit 1",
        "echo 'NV Power Mode: 15W'; exit 3",
        "exec yes",
        "kill -9 $$",
        "cat",  # stdin is empty, so that it ends at once
    ],
)
def test_programs_that_fail_or_talk_without_end_tell_nothing(tmp_path, script):
    assert power_mode.read(program(tmp_path, "nvpmodel", script)) is None


def test_a_program_that_hangs_is_ended_with_what_it_started(tmp_path):
    """The shell's child holds the pipe: killing the shell alone would not end the reading."""
    program(tmp_path, "vcgencmd", f"sleep 600 & echo $! > {tmp_path / 'pid'}; wait")
    assert ask(tmp_path, "vcgencmd", "get_throttled", timeout_s=1.0) is None
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}/stat").exists() or Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z":
            break
        time.sleep(0.05)
    else:
        pytest.fail("the program's child lives on")


def test_a_program_that_cannot_be_executed(tmp_path):
    path = tmp_path / "usr/bin/vcgencmd"
    program(tmp_path, "vcgencmd", "")
    path.write_bytes(b"\x7fELF garbage")  # as programs of another architecture are under an emulator
    path.chmod(0o755)
    assert ask(tmp_path, "vcgencmd") is None


def board_files(root: Path) -> list[Path]:
    return [path for path in sorted(root.rglob("*")) if path.is_file() and "usr" not in path.relative_to(root).parts]


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_content_of_any_file_is_an_exception(board, tmp_path, data):
    root = tmp_path / "board"
    if not root.exists():
        board(root)
    files = board_files(root)
    path = data.draw(st.sampled_from(files))
    plain = path.read_bytes()
    numbers = st.integers(-(10**25), 10**25).map(lambda number: str(number).encode())
    try:
        path.write_bytes(data.draw(st.one_of(st.binary(max_size=64), numbers, st.just(b"9" * 5000))))
        check_all(root)
    finally:
        path.write_bytes(plain)


@pytest.mark.parametrize("board", BOARDS.values(), ids=BOARDS)
def test_files_that_vanish_or_cannot_be_read_are_no_exception(board, tmp_path):
    board(tmp_path)
    for path in board_files(tmp_path):
        plain = path.read_bytes()
        path.unlink()
        check_all(tmp_path)
        path.mkdir()
        check_all(tmp_path)
        path.rmdir()
        path.symlink_to(path)  # a circle
        check_all(tmp_path)
        path.unlink()
        path.write_bytes(plain)


def check_all(root: Path) -> None:
    """Reads everything but programs, and what is made of it."""
    entry = {}
    for kind, sensor in SENSORS.items():
        if kind in ("power_mode", "nvidia_gpu"):
            continue
        reading = raspberry_pi_without_program(root) if kind == "raspberry_pi" else sensor.read(root)
        json.dumps(reading, allow_nan=False)
        if sensor.brief is not None and reading is not None:
            entry[kind] = sensor.brief(reading)
    json.dumps(entry, allow_nan=False)
    assert isinstance(find_troubles([entry, entry], on_gpu=False), list)
    assert read_load_average(root) is None or len(read_load_average(root) or []) == 3
    for clock in (CpuClock(root), CpuClock(root, [0]), GpuClock(root)):
        assert clock.read_mhz() is None or (clock.read_mhz() or 0) > 0


def raspberry_pi_without_program(root: Path) -> object:
    """The program is not asked hundreds of times."""
    path = root / "usr/bin/vcgencmd"
    hidden = path.with_name("hidden")
    if not path.exists():
        return raspberry_pi.read(root)
    path.rename(hidden)
    try:
        return raspberry_pi.read(root)
    finally:
        hidden.rename(path)


@given(st.binary(max_size=300))
def test_no_answer_of_a_program_is_an_exception(content):
    text = content.decode(errors="replace")
    raspberry_pi.parse(text)
    power_mode.parse(text)
    for gpu in nvidia_gpu.parse(text) or []:
        json.dumps(gpu, allow_nan=False)


@given(st.lists(st.text("0123456789abcdefxXP.[]N/A- ", max_size=12), min_size=6, max_size=6))
def test_no_row_of_nvidia_smi_is_an_exception(cells):
    gpus = nvidia_gpu.parse(",".join(cells))
    assert gpus is not None and len(gpus) == 1
    json.dumps(gpus, allow_nan=False)
    assert isinstance(nvidia_gpu.SENSOR.troubles([gpus]), list)


@given(st.text(max_size=40))
def test_whole_numbers_are_what_int_takes_them_for(text):
    found = parse_int(text)
    assert found is None or found == int(text)


def test_reads_are_bounded(tmp_path):
    path = tmp_path / "endless"
    path.write_bytes(b"7" * 100_000)
    assert len(read_text(path) or "") == 4096
    assert read_text(tmp_path / "none") is None
    assert read_text(tmp_path) is None


def test_folders_are_in_the_order_of_their_numbers(tmp_path):
    for number in (10, 2, 1, 0):
        (tmp_path / f"policy{number}").mkdir()
    assert [path.name for path in listed(tmp_path, "policy*")] == ["policy0", "policy1", "policy2", "policy10"]
    assert unique([("a", 1), ("b", 2), ("a", 3), ("a", 4)]) == {"a": 1, "b": 2, "a#2": 3, "a#3": 4}


def test_a_gpu_is_told_from_other_devices_by_its_name(tmp_path):
    jetson_orin_nano(tmp_path)
    write(tmp_path, {"sys/class/devfreq/17000000.gpu/device/of_node/name": "host1x\0"})
    assert jetson_gpu.read(tmp_path) is None


def test_names_of_sensors_are_files_of_theirs():
    import edgeq.sensors

    files = {path.stem for path in Path(edgeq.sensors.__file__).parent.glob("*.py")}
    assert {kind.removesuffix("_c") for kind in SENSORS} == files - {"__init__", "base", "sampler"}
    assert os.sep not in "".join(SENSORS)
