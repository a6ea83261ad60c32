from __future__ import annotations

import json
import os
import threading
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from edgeq.errors import InputError
from edgeq.inputs.images import existing_images, image_size, list_images, read_image


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.png", "a.JPG", "sub/c.jpeg", "sub/deep/d.bmp"):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 3)).save(path)
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    return tmp_path / "images"


def names(paths: list[Path], folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in paths]


def test_folder_is_searched_recursively_in_a_fixed_order(folder: Path) -> None:
    assert names(list_images(folder), folder) == ["a.JPG", "b.png", "sub/c.jpeg", "sub/deep/d.bmp"]


def test_text_file_keeps_its_order_and_starts_at_its_own_folder(folder: Path) -> None:
    listing = folder / "list.txt"
    listing.write_text("sub/c.jpeg\n\n  b.png  \n", encoding="utf-8")
    assert names(list_images(listing), folder) == ["sub/c.jpeg", "b.png"]


def test_text_file_starts_at_the_given_folder(folder: Path, tmp_path: Path) -> None:
    listing = tmp_path / "list.txt"
    listing.write_text("b.png\n")
    assert list_images(listing, folder) == [folder / "b.png"]
    absolute = tmp_path / "absolute.txt"
    absolute.write_text(f"{folder / 'b.png'}\n")
    assert list_images(absolute, tmp_path / "elsewhere") == [folder / "b.png"]


def test_coco_file_lists_its_images_in_its_order_missing_ones_included(folder: Path, tmp_path: Path) -> None:
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps({"images": [{"file_name": name} for name in ("gone.png", "b.png", "a.JPG")]}))
    assert names(list_images(annotations, folder), folder) == ["gone.png", "b.png", "a.JPG"]
    with pytest.raises(InputError, match="`images` DIR"):
        list_images(annotations)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing.txt", None, "no such file or folder"),
        ("empty.txt", b"\n \n", "names no images"),
        ("words.txt", b"nothing here\nis an image\n", "none of its 2 images"),
        ("binary.txt", b"\xff\xd8\x00\x81", "cannot be read as a folder, a text file with one path per line"),
        ("null.txt", b"a\x00b", "none of its 1 images"),
        ("long.txt", b"x" * 5000, "none of its 1 images"),
        ("photo.png", b"\x89PNG", "single image"),
        ("list.json", b"[1, 2]", "wanted keys with values; expected a COCO annotation file"),
        ("other.json", b'{"images": [{"id": 1}]}', "has no 'file_name'; expected a COCO annotation file"),
        ("broken.json", b'{"images": [', "not valid JSON"),
    ],
)
def test_what_leads_to_no_image_is_one_clear_line(
    tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        list_images(tmp_path / name, tmp_path)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_empty_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no images"):
        list_images(tmp_path)


def test_wrong_images_folder_is_told_before_images_are_read(folder: Path, tmp_path: Path) -> None:
    annotations = tmp_path / "instances.json"
    annotations.write_text(json.dumps({"images": [{"file_name": "b.png"}]}))
    with pytest.raises(InputError, match="none of its 1 images is in"):
        list_images(annotations, tmp_path)


COLOUR = (200, 100, 50)
GRAY = (120, 120, 120)


def _palette() -> Image.Image:
    image = Image.new("P", (5, 4), 1)
    image.putpalette([0, 0, 0, *COLOUR])
    return image


def _palette_with_alpha() -> Image.Image:
    image = _palette()
    image.info["transparency"] = bytes([0, 128])
    return image


@pytest.mark.parametrize(
    ("image", "suffix", "expected"),
    [
        (Image.new("RGB", (5, 4), COLOUR), ".png", COLOUR),
        (Image.new("RGBA", (5, 4), (*COLOUR, 7)), ".png", COLOUR),
        (Image.new("L", (5, 4), 120), ".png", GRAY),
        (Image.new("LA", (5, 4), (120, 3)), ".png", GRAY),
        (Image.new("1", (5, 4), 1), ".png", (255, 255, 255)),
        (Image.new("I;16", (5, 4), 120 * 256 + 9), ".png", GRAY),
        (_palette(), ".png", COLOUR),
        (_palette_with_alpha(), ".png", COLOUR),
        (Image.new("CMYK", (5, 4), (55, 155, 205, 0)), ".tif", COLOUR),
    ],
    ids=["rgb", "rgba", "gray", "gray-alpha", "bilevel", "gray16", "palette", "palette-alpha", "cmyk"],
)
def test_every_pixel_format_becomes_rgb(
    tmp_path: Path, image: Image.Image, suffix: str, expected: tuple[int, int, int]
) -> None:
    path = tmp_path / f"image{suffix}"
    image.save(path)
    pixels = read_image(path)
    assert pixels.shape == (4, 5, 3) and pixels.dtype == np.uint8
    assert (pixels == expected).all()


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_lying_photo_is_turned_upright_unless_its_boxes_lie_too(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    columns, rows = np.meshgrid(np.arange(48), np.arange(32))
    stored = Image.fromarray(np.stack([columns * 5, rows * 7, columns + rows], -1).astype(np.uint8))
    path = tmp_path / f"turned{suffix}"
    stored.save(path, exif=exif)
    with Image.open(path) as image:
        upright = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    found = read_image(path)
    assert np.array_equal(found, upright)
    assert image_size(path) == (found.shape[1], found.shape[0])
    assert read_image(path, (found.shape[1], found.shape[0])).shape == found.shape
    if suffix != ".tif":  # Pillow turns these before anybody can say no
        assert read_image(path, (48, 32)).shape == (32, 48, 3)


def noise(path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".bmp", ".gif", ".webp", ".tif"])
@pytest.mark.parametrize("share", [0.5, 0.02])
def test_truncated_file_is_an_error_that_names_it(tmp_path: Path, suffix: str, share: float) -> None:
    path = noise(tmp_path / f"cut{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=f"cut{suffix}") as caught:
        read_image(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "not an image"), (b"hello world", "not an image"), (b"\x89PNG\r\n\x1a\n" + b"\0" * 64, "image")],
)
def test_foreign_file_is_an_error_that_names_it(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "foreign.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_image(path)
    assert "foreign.jpg" in str(caught.value)


def test_missing_image_and_folder_are_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such image"):
        read_image(tmp_path / "gone.jpg")
    with pytest.raises(InputError, match="is not a regular file"):
        read_image(tmp_path)


def test_a_video_is_no_list_of_paths(tmp_path: Path) -> None:
    (tmp_path / "street.MP4").write_bytes(b"\0\0\0 ftypisom\xe0")
    with pytest.raises(InputError, match=r"street\.MP4: is a video; give it as `data`"):
        list_images(tmp_path / "street.MP4")


@pytest.mark.parametrize("limit", [1000, 3000])  # twice the limit is an error in Pillow, less is a warning
def test_decompression_bomb_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    path = noise(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(InputError, match=r"bomb\.png.*too large"):
        read_image(path)


def test_threads_leave_the_warning_filters_as_they_were(tmp_path: Path) -> None:
    paths = [noise(tmp_path / f"{index}.png") for index in range(4)]
    before = list(warnings.filters)
    barrier = threading.Barrier(4)

    def read_often(path: Path) -> None:
        barrier.wait()
        for _ in range(25):
            read_image(path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(read_often, paths))
    assert list(warnings.filters) == before


def _like_opencv(path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    expected = cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1].astype(int)
    found = read_image(path).astype(int)
    assert found.shape == expected.shape
    # Two JPEG decoders, or conversions of gray and CMYK, may round differently.
    assert np.abs(found - expected).max() <= 3


def _ramp(channels: int, dtype: type = np.uint8) -> np.ndarray:
    columns, rows = np.meshgrid(np.arange(64), np.arange(48))
    most = np.iinfo(dtype).max
    planes = [(columns * (index + 1) + rows * 2) / 400 * most for index in range(channels)]
    return np.stack(planes, -1).clip(0, most).astype(dtype)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_photos_are_turned_as_opencv_turns_them(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(_ramp(3)).save(tmp_path / "a.jpg", exif=exif, quality=95)
    _like_opencv(tmp_path / "a.jpg")


def test_pixel_formats_are_read_as_opencv_reads_them(tmp_path: Path) -> None:
    ramp = Image.fromarray(_ramp(3))
    Image.fromarray(_ramp(4)).save(tmp_path / "rgba.png")
    ramp.quantize(32).save(tmp_path / "palette.png")
    clear = ramp.quantize(32)
    clear.save(tmp_path / "clear.png", transparency=3)
    Image.fromarray(_ramp(1)[:, :, 0]).save(tmp_path / "gray.png")
    Image.fromarray(_ramp(2)[:, :, 0]).convert("LA").save(tmp_path / "gray_alpha.png")
    Image.fromarray(_ramp(1, np.uint16)[:, :, 0]).save(tmp_path / "gray16.png")
    ramp.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=98)
    ramp.convert("L").save(tmp_path / "gray.jpg", quality=98)
    ramp.save(tmp_path / "photo.webp", lossless=True)
    for path in sorted(tmp_path.iterdir()):
        _like_opencv(path)


def test_16_bits_of_colour_are_read_as_opencv_reads_them(tmp_path: Path) -> None:
    cv2 = pytest.importorskip("cv2")
    for name in ("deep.png", "deep.tif"):
        cv2.imwrite(str(tmp_path / name), _ramp(3, np.uint16))
        _like_opencv(tmp_path / name)


def test_the_first_frame_of_an_animation_is_taken_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in ((250, 0, 0), (0, 250, 0), (0, 0, 250))]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert (read_image(tmp_path / "moving.gif") == (250, 0, 0)).all()
    assert "moving.gif: holds several frames; the first one is taken" in caplog.text


def test_an_enormous_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "huge.png"
    Image.new("L", (1, 1)).save(path)
    content = bytearray(path.read_bytes())
    content[16:24] = (50_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)
    for read in (read_image, image_size):
        with pytest.raises(InputError, match=r"huge\.png: is too large .* cut it into tiles"):
            read(path)


def test_a_row_longer_than_any_photo_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = tmp_path / "row.png"
    Image.new("1", (70_000, 1)).save(path)
    for read in (read_image, image_size):
        with pytest.raises(InputError, match=r"row\.png: is 70,000 pixels long; wanted at most 65,535"):
            read(path)


def test_what_is_no_image_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(InputError, match="is not a regular file"):
            read_image(path)


def test_postscript_does_not_reach_ghostscript_under_another_name(tmp_path: Path) -> None:
    path = tmp_path / "drawing.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match="is not an image that Pillow can read"):
        read_image(path)


@pytest.mark.parametrize("name", ["/etc/hostname", "../other/0.png", "a/../../0.png"])
def test_annotations_name_nothing_outside_the_folder(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="lies outside"):
        existing_images(tmp_path / "coco.json", folder, [name])
