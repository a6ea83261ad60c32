"""Frames of videos: each is found, any can be read, and a damaged file is one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgeq.datasets import open_split
from edgeq.errors import InputError
from edgeq.inputs.items import evenly_spaced
from edgeq.inputs.video import VideoFrame, list_frames

av = pytest.importorskip("av")

FRAMES = 30


def film(path: Path, **options: str) -> Path:
    """Writes a video whose frames get brighter; key frames every 8, and frames that depend on later ones."""
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.gop_size, stream.max_b_frames, stream.bit_rate = 8, 2, 4_000_000
        for number in range(FRAMES):
            pixels = np.full((48, 64, 3), number * 8, np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film(tmp_path_factory.mktemp("video") / "street.mp4")


def brightness(frame: object) -> float:
    assert isinstance(frame, VideoFrame)
    pixels = frame.read()
    assert pixels.shape == (48, 64, 3) and pixels.dtype == np.uint8
    return float(pixels.mean())


@pytest.mark.parametrize("order", [range(FRAMES), range(FRAMES - 1, -1, -1), (17, 3, 3, 29, 0, 18)])
def test_every_frame_is_read_in_any_order(video: Path, order: range) -> None:
    frames = list_frames(video)
    assert len(frames) == FRAMES
    for number in order:
        assert brightness(frames[number]) == pytest.approx(number * 8, abs=4)


def test_a_video_is_a_data_set_of_its_frames(video: Path) -> None:
    split = open_split(video, "calibration")
    assert split.describe() == "video (street.mp4), all: 30 images"
    chosen = evenly_spaced(split.items, 3)
    assert [round(brightness(frame) / 8) for frame in chosen] == [0, 10, 20]
    assert len({item.digest() for item in split.items}) == FRAMES
    assert chosen[1].digest() == open_split(video, "calibration").items[10].digest()
    assert chosen[1].name.endswith("street.mp4 at 1.000 s")


def test_a_damaged_video_is_one_line(video: Path, tmp_path: Path) -> None:
    (tmp_path / "none.mp4").write_bytes(video.read_bytes()[:500])
    with pytest.raises(InputError, match=r"none\.mp4: cannot be read as a video"):
        list_frames(tmp_path / "none.mp4")
    content = bytearray(video.read_bytes())
    frames = list_frames(video)
    content[len(content) // 2 :] = b""
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(video.read_bytes())
    left = list_frames(cut)
    cut.write_bytes(content)  # the index lies at the end: what it had said is gone
    with pytest.raises(InputError, match=r"cut\.mp4: "):
        left[-1].read()
    assert brightness(frames[-1]) == pytest.approx(232, abs=4)


@pytest.mark.parametrize("suffix", ["avi", "mkv", "mov"])
def test_a_truncated_video_says_what_is_missing(suffix: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ahead = {"movflags": "faststart"} if suffix == "mov" else {}  # what the file states lies at its beginning
    whole = film(tmp_path / f"whole.{suffix}", **ahead)
    assert len(list_frames(whole)) == FRAMES
    assert caplog.text == ""
    content = whole.read_bytes()
    cut = tmp_path / f"cut.{suffix}"
    cut.write_bytes(content[: len(content) * 2 // 3])
    count = len(list_frames(cut))
    assert 3 < count < FRAMES
    assert f"cut.{suffix}: holds {count} of the {FRAMES} frames that its head states; it is truncated" in caplog.text
