"""`--device` over a real sshd on loopback: everything from the probe to the scores."""

from __future__ import annotations

import json
import os
import shlex
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from edgeq.devices.remote import RemoteDevice
from edgeq.devices.transfer import SentFile, SentFolder, Store
from edgeq.errors import DeviceError, InputError
from edgeq.measurement.timed_file import Sampling
from edgeq.results.measurement import BenchResult
from edgeq.verbs.on_devices import bench_on_devices
from tests.arm.emulator import find
from tests.devices.scene import Scene, draw_scene
from tests.tiny import save_conv_net

# What may differ between two runs of the same files.
_TIMES = ("inference_images_per_s", "eval_images_per_s", "device", "environment")


@pytest.fixture(scope="module")
def scene(tmp_path_factory) -> Scene:
    return draw_scene(tmp_path_factory.mktemp("scene"), 12)


@pytest.fixture
def devices(loop, tmp_path, monkeypatch):
    """A working folder with a devices.toml."""
    monkeypatch.chdir(tmp_path)
    gone = '[gone]\nhost = "ssh://127.0.0.1:1"\n'
    (tmp_path / "devices.toml").write_text(loop.toml("loop") + gone)
    return tmp_path


@pytest.fixture
def sent(monkeypatch) -> list[str]:
    """Names of what is sent from here on."""
    names: list[str] = []
    send = Store._send

    def note(self, command, arguments, members):
        names.extend([arguments[1]] if command == "folder" else [name for name, _ in members])
        send(self, command, arguments, members)

    monkeypatch.setattr(Store, "_send", note)
    return names


def test_bench_on_a_device_and_what_is_there_is_not_sent_again(devices, edgeq, sent):
    net = save_conv_net(devices / "net's $file.onnx").path
    other = save_conv_net(devices / "other.onnx", depth=3).path
    options = ["--runtime", "onnxruntime", "--seconds", "0", "--device", "loop", "--json", "b.json"]
    done = edgeq("bench", net, other, *options)
    assert done.code == 0, done
    results = json.loads(Path("b.json").read_text())
    assert [(each["artifact"], each["device"]) for each in results] == [
        ("net's $file.onnx", "loop"),
        ("other.onnx", "loop"),
    ]
    assert all(each["runs"] and each["environment"]["threads"] == 1 for each in results)
    assert results[1]["ratio_to_first"] > 0, "one interleaved run"
    assert "onnxruntime on loop" in done.out
    assert {f"{each['digest']}/{each['artifact']}" for each in results} <= set(sent)

    first = list(sent)
    sent.clear()
    assert edgeq("bench", net, *options).code == 0
    # A new name is new content: the source of a checkout may be edited meanwhile.
    assert [name for name in sent if name in first or not name.startswith("edgeq-")] == []


def test_scores_are_those_of_this_machine_bit_for_bit(devices, edgeq, scene, sent):
    done = edgeq("eval", *scene.options, "--threads", 1, "--device", "loop", "--device", "local", "--json", "e.json")
    assert done.code == 0, done
    there, here = json.loads(Path("e.json").read_text())
    assert (there["device"], here["device"]) == ("loop", "local")
    assert 0 < here["AP50"] <= 1
    for each in (there, here):
        for name in _TIMES:
            each.pop(name)
    assert there == here
    assert sum(name.endswith(".png") for name in sent) in (0, 12)

    sent.clear()
    assert edgeq("eval", *scene.options, "--device", "loop").code == 0
    assert [name for name in sent if not name.startswith("edgeq-")] == []
    assert not list((Path(os.environ["XDG_CACHE_HOME"]) / "edgeq" / "eval").glob("*")), "a complete run is forgotten"


def test_pictures_are_drawn_here_of_what_a_device_finds(devices, edgeq, scene):
    options = ["--runtime", "onnxruntime", "--threads", 1, "--annotations", scene.annotations]
    images = sorted(path.name for path in scene.images.iterdir())
    found = {}
    for device in ("loop", "local"):
        there = ["--device", device, "--out", device, "--json", f"{device}.jsonl"]
        assert edgeq("predict", scene.artifact, scene.images, *options, *there).code == 0
        found[device] = Path(f"{device}.jsonl").read_text()
        assert sorted(path.name for path in Path(device).iterdir()) == images
    assert found["loop"] == found["local"]
    assert all((Path("loop") / name).read_bytes() == (Path("local") / name).read_bytes() for name in images)


def test_one_failing_device_is_one_row(devices, edgeq):
    net = save_conv_net(devices / "net.onnx").path
    options = ["--runtime", "onnxruntime", "--seconds", "0", "--json", "b.json"]
    done = edgeq("bench", net, *options, "--device", "gone", "--device", "loop")
    assert done.code == 1
    (row,) = [line for line in done.out.splitlines() if line.startswith("gone")]
    assert "failed: cannot be reached: " in row
    assert "try: ssh -p 1 127.0.0.1" in row
    result = json.loads(Path("b.json").read_text())
    assert (result["artifact"], result["device"]) == ("net.onnx", "loop")

    assert "gone: cannot be reached" in edgeq("bench", net, *options, "--device", "gone").error


def test_an_unreadable_image_is_skipped_there_as_it_is_here(devices, edgeq, scene, tmp_path):
    many = draw_scene(_folder(tmp_path / "many"), 24, side_px=128)
    broken = sorted(many.images.iterdir())[3]
    broken.write_bytes(b"no image")
    done = edgeq("eval", *many.options, "--device", "loop", "--device", "local", "--json", "e.json")
    assert done.code == 0, done
    there, here = json.loads(Path("e.json").read_text())
    assert there["skipped_images"] == here["skipped_images"] == [broken.name]
    assert there["AP"] == here["AP"]
    assert f"{broken}: is not an image" in done.err
    assert str(tmp_path) in done.err


def test_an_image_of_another_size_is_refused(devices, edgeq, tmp_path):
    small = draw_scene(_folder(tmp_path / "small"), 3, side_px=128)
    document = json.loads(small.annotations.read_text())
    document["images"][1]["width"] = 64
    small.annotations.write_text(json.dumps(document))
    error = edgeq("eval", *small.options, "--device", "loop").error
    assert "loop: " in error
    assert "has 128x128 pixels, its annotations were made on 64x128" in error


def test_what_does_not_arrive_as_it_was_is_refused(loop, tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"the file")
    (tmp_path / "good.onnx").write_bytes(b"another")
    changed = SentFile.of(tmp_path / "a.onnx")
    good = SentFile.of(tmp_path / "good.onnx")
    (tmp_path / "a.onnx").write_bytes(b"tampered")
    with RemoteDevice(loop.device()) as remote:
        with pytest.raises(DeviceError, match=r"loop: a\.onnx: arrived with SHA-256 [0-9a-f]{12}, wanted"):
            remote.push([good, changed])
        assert not Path(remote.path_of(changed)).exists()
        assert Path(remote.path_of(good)).read_bytes() == b"another", "what arrived whole is kept"
        assert _leftovers(loop.cache) == []

        (tmp_path / "folder" / "sub").mkdir(parents=True)
        (tmp_path / "folder" / "sub" / "b.py").write_text("one")
        folder = SentFolder.of("test", tmp_path / "folder")
        (tmp_path / "folder" / "sub" / "b.py").write_text("two")
        with pytest.raises(DeviceError, match="arrived with SHA-256"):
            remote._store.push_folder(folder)
        assert not (loop.cache / folder.name).exists()
        assert _leftovers(loop.cache) == []


def test_what_a_device_was_not_asked_for_in_a_month_is_removed(loop, tmp_path):
    def age(path: Path, days: int) -> Path:
        os.utime(path, times=(time.time() - days * 86400,) * 2)
        return path

    for name in ("kept", "old", "new"):
        (tmp_path / f"{name}.onnx").write_text(name)
    kept, old, new = (SentFile.of(tmp_path / f"{name}.onnx") for name in ("kept", "old", "new"))
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("a")
    package = SentFolder.of("edgeq", tmp_path / "package")
    with RemoteDevice(loop.device()) as remote:
        remote.push([kept, old])
        remote._store.push_folder(package)
        stale = age(Path(remote.path_of(old)).parent, 31)
        used = age(Path(remote.path_of(kept)).parent, 31)
        gone = age(loop.cache / package.name, 31)
        theirs = loop.cache / "photographs"
        theirs.mkdir(exist_ok=True)
        age(theirs, 900)
        remote.push([kept, new])
        assert used.is_dir(), "asked for again"
        assert not stale.exists()
        assert Path(remote.path_of(new)).read_text() == "new"
        remote._store.push_folder(SentFolder.of("other", tmp_path / "package"))
        assert not gone.exists()
        assert theirs.is_dir(), "nothing of ours"


def test_a_full_disk(loop, tmp_path):
    (tmp_path / "large.onnx").write_bytes(os.urandom(1 << 20))
    large = SentFile.of(tmp_path / "large.onnx")
    # A limit on the size of files makes writing fail in the midst, as a full disk does.
    python = _wrapper(tmp_path / "python", f'ulimit -f 100; exec {loop.device().python} "$@"')
    with RemoteDevice(loop.device(python=str(python))) as remote:
        with pytest.raises(DeviceError, match=r"loop: .*File too large"):
            remote.push([large])
        assert not Path(remote.path_of(large)).exists()
        assert _leftovers(loop.cache) == []
        remote._store._free_bytes = 1000
        with pytest.raises(DeviceError, match=r"1 MB are to be sent, and .* has 0 MB free"):
            remote.push([large])


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo Welcome!", r"answered b'Welcome!\\n', wanted a JSON object; does its shell print something"),
        ("exit 1", "failed with exit code 1: it said nothing"),
        ("echo '{}'", "answer has no 'system'"),
        ("head -c 9000000 /dev/zero", "answered more than 4 MiB"),
    ],
)
def test_a_device_that_answers_nonsense(loop, tmp_path, script, said):
    python = _wrapper(tmp_path / "python", script)
    with pytest.raises(DeviceError, match=f"loop: .*{said}"):
        RemoteDevice(loop.device(python=str(python))).__enter__()
    assert loop.masters() == []


def test_a_runner_that_answers_nonsense(loop, devices, edgeq, tmp_path):
    python = _wrapper(
        tmp_path / "python", f'[ "$1" = -m ] && exec printf "%s" "{{oops\\n"; exec {loop.device().python} "$@"'
    )
    toml = (devices / "devices.toml").read_text().replace(loop.device().python, str(python))
    (devices / "devices.toml").write_text(toml)
    net = save_conv_net(devices / "net.onnx").path
    error = edgeq("bench", net, "--runtime", "onnxruntime", "--seconds", 0, "--device", "loop").error
    assert error.startswith("loop: net.onnx in onnxruntime: its process ")


def test_a_device_without_that_python(loop):
    with pytest.raises(DeviceError, match=r"has no sh|has no python9 .*name its interpreter with `python`"):
        RemoteDevice(loop.device(python="python9")).__enter__()


def test_runtimes_of_a_device(loop, tmp_path):
    net = save_conv_net(tmp_path / "net.onnx")
    with RemoteDevice(loop.device(runtimes=("onnxruntime",))) as remote:
        assert remote.choose_runtimes(net, ()) == ["onnxruntime"]
        assert remote.choose_runtimes(net, ("openvino",)) == ["openvino"]
        for wished in (["tensorrt"], ["litert"]):
            with pytest.raises(InputError, match=f"{wished[0]} cannot run onnx files on loop|none of litert"):
                remote.choose_runtimes(net, wished)
    with RemoteDevice(loop.device()) as remote:
        assert remote.choose_runtimes(net, ()) == ["openvino"], "the first of the target x86"


@pytest.mark.slow
def test_a_device_that_fetches_its_own_packages(loop, tmp_path):
    net = save_conv_net(tmp_path / "net.onnx").path
    device = loop.device(env="venv", cache=str(tmp_path / "venv cache"))
    (outcome,) = bench_on_devices([device], [net], ["onnxruntime"], sampling=Sampling(min_runs=5, min_s=0, warmup_s=0))
    (result,) = outcome.results
    assert isinstance(result, BenchResult)
    assert result.runs is not None and result.runs >= 5
    assert list((tmp_path / "venv cache").glob("venv-*/bin/python"))
    assert _leftovers(tmp_path / "venv cache") == []


@pytest.mark.device
def test_a_board(edgeq, scene, tmp_path, monkeypatch):
    address = os.environ.get("EDGEQ_TEST_DEVICE")
    if not address:
        pytest.skip("set EDGEQ_TEST_DEVICE to the address of a board or an emulated one: ssh://user@host:port")
    monkeypatch.chdir(tmp_path)
    _check_agreement(edgeq, scene, address)


@pytest.mark.arm
def test_an_emulated_aarch64_device(loop, edgeq, scene, tmp_path, monkeypatch):
    emulator = find()
    if emulator is None:
        pytest.skip("aarch64 is not emulated here; `make test-arm` sets it up")
    root = emulator.folder / "neoverse-n1"
    # Not `write_python`: the path of packages is what edgeq gives it. -S as there.
    qemu = [emulator.qemu, "-cpu", "neoverse-n1", "-L", root, "-E", f"PYTHONPYCACHEPREFIX={tmp_path}/bytecode"]
    command = shlex.join(map(str, [*qemu, root / "usr/bin/python3", "-S"]))
    python = _wrapper(tmp_path / "python", f'exec {command} "$@"')
    toml = loop.toml("arm").replace(loop.device().python, str(python))
    (tmp_path / "devices.toml").write_text(toml)
    monkeypatch.chdir(tmp_path)
    there = _check_agreement(edgeq, scene, "arm")
    assert there["environment"]["emulated"] is True


def _check_agreement(edgeq, scene: Scene, device: str) -> dict[str, Any]:
    """Returns a result of the device, after comparing it with this machine's."""
    options = ["--device", device, "--device", "local", "--json", "r.json"]
    done = edgeq("bench", scene.artifact, "--runtime", "onnxruntime", "--seconds", 0, *options)
    assert done.code == 0, done
    there, here = json.loads(Path("r.json").read_text())
    assert there["obtained"] == ("emulated" if there["environment"]["emulated"] else "measured")
    assert (there["latency_ms"]["p50"] is None) == there["environment"]["emulated"]
    done = edgeq("eval", *scene.options, *options)
    assert done.code == 0, done
    there, here = json.loads(Path("r.json").read_text())
    assert there["AP"] == pytest.approx(here["AP"], abs=1e-3)
    assert there["images"] == here["images"]
    result: dict[str, Any] = there
    return result


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def _wrapper(path: Path, script: str) -> Path:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def _leftovers(cache: Path) -> list[Path]:
    return [*cache.glob(".edgeq-*"), *cache.glob("files/*/.edgeq-*")]
