from __future__ import annotations

import json
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeq.errors import InputError
from edgeq.inputs.images import list_images, read_image


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
    with pytest.raises(InputError, match="none of its 1 images lies in"):
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


def test_exif_orientation_leaves_pixels_under_their_boxes(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # a viewer turns it by 90 degrees
    Image.new("RGB", (40, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").shape == (20, 40, 3)


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
    with pytest.raises(InputError, match="cannot be decoded"):
        read_image(tmp_path)


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
