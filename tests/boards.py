"""Trees of files that stand in for the /proc, /sys and programs of boards.

Names and units are those of the kernel's documentation and of NVIDIA's and Raspberry Pi's; the numbers are made up.
"""

from __future__ import annotations

import stat
from pathlib import Path


def write(root: Path, files: dict[str, object]) -> Path:
    """Writes path -> content, with the newline that the kernel adds."""
    for path, content in files.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{content}\n")
    return root


def program(root: Path, name: str, script: str) -> Path:
    """Writes a program that a shell runs."""
    path = root / "usr/bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return root


def policy(
    number: int, cpus: str, khz: int, *, governor: str = "schedutil", max_khz: int = 2_400_000
) -> dict[str, object]:
    """Returns the files of a cpufreq policy."""
    folder = f"sys/devices/system/cpu/cpufreq/policy{number}"
    return {
        f"{folder}/scaling_cur_freq": khz,
        f"{folder}/scaling_min_freq": 800_000,
        f"{folder}/scaling_max_freq": max_khz,
        f"{folder}/cpuinfo_max_freq": max_khz,
        f"{folder}/scaling_governor": governor,
        f"{folder}/affected_cpus": cpus,
    }


def jetson_orin_nano(root: Path) -> Path:
    """A Jetson Orin Nano with JetPack 6: three rails, one not connected on a second monitor, a zone that is off."""
    rails = "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1"
    second = "sys/bus/i2c/drivers/ina3221/1-0041/hwmon/hwmon2"
    gpu = "sys/class/devfreq/17000000.gpu"
    write(root, policy(0, "0 1 2 3", 1_510_400, max_khz=1_510_400) | policy(4, "4 5", 729_600, max_khz=1_510_400))
    write(
        root,
        {
            "proc/loadavg": "0.52 0.40 0.31 1/512 4711",
            "sys/firmware/devicetree/base/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": 49_250,
            "sys/class/thermal/thermal_zone1/type": "gpu-thermal",
            "sys/class/thermal/thermal_zone1/temp": 48_406,
            "sys/class/thermal/thermal_zone2/type": "cv0-thermal",
            "sys/class/thermal/thermal_zone2/temp": -256_000,
            "sys/class/thermal/cooling_device0/type": "pwm-fan",
            "sys/class/thermal/cooling_device0/cur_state": 2,
            "sys/class/thermal/cooling_device0/max_state": 10,
            "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0",
            "sys/class/thermal/cooling_device1/cur_state": 0,
            "sys/class/thermal/cooling_device1/max_state": 16,
            "sys/class/hwmon/hwmon3/name": "soctherm_oc",
            "sys/class/hwmon/hwmon3/oc1_event_cnt": 0,
            "sys/class/hwmon/hwmon3/oc3_event_cnt": 7,
            f"{gpu}/device/of_node/name": "gpu\0",
            f"{gpu}/device/load": 417,
            f"{gpu}/cur_freq": 611_999_744,
            f"{gpu}/min_freq": 305_999_872,
            f"{gpu}/max_freq": 624_750_000,
            f"{gpu}/governor": "nvhost_podgov",
            "sys/class/devfreq/15340000.vic/device/of_node/name": "vic\0",
            "sys/class/devfreq/15340000.vic/cur_freq": 115_200_000,
            f"{second}/in1_label": "NC",
            f"{second}/in1_input": 5000,
            f"{second}/curr1_input": 1000,
        },
    )
    channels = {1: ("VDD_IN", 5040, 1200), 2: ("VDD_CPU_GPU_CV", 5032, 320), 3: ("VDD_SOC", 5024, 280)}
    for channel, (label, millivolts, milliamperes) in channels.items():
        write(
            root,
            {
                f"{rails}/in{channel}_label": label,
                f"{rails}/in{channel}_input": millivolts,
                f"{rails}/curr{channel}_input": milliamperes,
            },
        )
    write(
        root, {f"{rails}/in7_label": "sum of shunt voltages", f"{rails}/in7_input": 900, f"{rails}/curr4_input": 1800}
    )
    return program(root, "nvpmodel", "[ \"$1\" = -q ] && echo 'NV Power Mode: 15W' && echo 0")


def jetson_xavier_jetpack_4(root: Path) -> Path:
    """The rails of a Jetson AGX Xavier with JetPack 4: two monitors of NVIDIA's old driver, no rail for all."""
    for address, number, rails in (
        ("1-0040", 0, (("GPU", 19_000, 100), ("CPU", 19_000, 50), ("SOC", 19_000, 60))),
        ("1-0041", 1, (("CV", 19_000, 0), ("VDDRQ", 19_000, 20), ("NC", 19_000, 500))),
    ):
        folder = f"sys/bus/i2c/drivers/ina3221x/{address}/iio:device{number}"
        for channel, (label, millivolts, milliamperes) in enumerate(rails):
            write(
                root,
                {
                    f"{folder}/rail_name_{channel}": label,
                    f"{folder}/in_voltage{channel}_input": millivolts,
                    f"{folder}/in_current{channel}_input": milliamperes,
                    f"{folder}/in_power{channel}_input": millivolts * milliamperes // 1000,
                },
            )
    return root


def raspberry_pi_5(root: Path, throttled: str = "0x0") -> Path:
    """A Raspberry Pi 5 with its firmware's program."""
    write(root, policy(0, "0 1 2 3", 2_400_000, governor="ondemand"))
    write(
        root,
        {
            "proc/loadavg": "0.10 0.05 0.01 1/200 99",
            "sys/firmware/devicetree/base/model": "Raspberry Pi 5 Model B Rev 1.0\0",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal",
            "sys/class/thermal/thermal_zone0/temp": 61_700,
            "sys/class/thermal/cooling_device0/type": "pwm-fan",
            "sys/class/thermal/cooling_device0/cur_state": 3,
            "sys/class/thermal/cooling_device0/max_state": 4,
            "sys/class/hwmon/hwmon0/name": "cpu_thermal",
            "sys/class/hwmon/hwmon2/name": "rpi_volt",
            "sys/class/hwmon/hwmon2/in0_lcrit_alarm": 0,
        },
    )
    return program(root, "vcgencmd", f'[ "$1" = get_throttled ] && echo throttled={throttled}')


def x86_laptop(root: Path) -> Path:
    """A laptop of two CPUs with RAPL readable, throttle counters, and a setting that looks like throttling."""
    write(root, policy(0, "0", 3_400_000, governor="powersave") | policy(1, "1", 1_100_000, governor="powersave"))
    rapl = "sys/class/powercap"
    zones = {
        "intel-rapl:0": ("package-0", 1_000_000),
        "intel-rapl:0:0": ("core", 600_000),
        "intel-rapl:0:1": ("uncore", 100_000),
        "intel-rapl:0:2": ("dram", 200_000),
        "intel-rapl:1": ("psys", 5_000_000),
    }
    for zone, (name, microjoules) in zones.items():
        write(
            root,
            {
                f"{rapl}/{zone}/name": name,
                f"{rapl}/{zone}/energy_uj": microjoules,
                f"{rapl}/{zone}/max_energy_range_uj": 262_143_328_850,
            },
        )
    write(root, {f"{rapl}/intel-rapl-mmio:0/name": "package-0", f"{rapl}/intel-rapl-mmio:0/energy_uj": 1_000_000})
    for cpu in (0, 1):
        folder = f"sys/devices/system/cpu/cpu{cpu}/thermal_throttle"
        write(root, {f"{folder}/core_throttle_count": 5 + cpu, f"{folder}/package_throttle_count": 3})
    return write(
        root,
        {
            "proc/loadavg": "1.50 1.20 0.90 3/900 1234",
            "sys/class/thermal/thermal_zone0/type": "acpitz",
            "sys/class/thermal/thermal_zone0/temp": 43_000,
            "sys/class/thermal/thermal_zone1/type": "acpitz",
            "sys/class/thermal/thermal_zone1/temp": 27_800,
            "sys/class/thermal/cooling_device0/type": "TCC Offset",
            "sys/class/thermal/cooling_device0/cur_state": 3,
            "sys/class/thermal/cooling_device0/max_state": 63,
            "sys/class/thermal/cooling_device1/type": "intel_powerclamp",
            "sys/class/thermal/cooling_device1/cur_state": -1,
            "sys/class/thermal/cooling_device1/max_state": 50,
        },
    )
