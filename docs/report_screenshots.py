"""Writes the pictures of a report for the documents: `python -m docs.report_screenshots RUNS... --images FOLDER...`.

Makes the page of the results, opens it in Chromium (see `docs.browser`) and writes docs/report.png and, light and
dark at the width of a phone, docs/report_phone.png. Anything that the browser complains about is an error, and so is
a page wider than its window.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from docs.browser import Browser, find_browser
from edgeq.reporting.runs import read_runs
from edgeq.reporting.write import write_report

FOLDER = Path(__file__).parent
WIDE_PX, PHONE_PX = 1280, 390
_WINDOW_HEIGHT = 844
_MARGIN = 24
_COLORS = 128
# Down to where the wide picture reaches: the overview, and the first plots below it where there are any.
_LAST = "(document.querySelector('#tradeoff figure') || document.querySelector('#overview'))"
_IMAGES = "(document.querySelector('#images') || document.querySelector('#overview'))"


def take(runs: Sequence[Path], images: Sequence[Path], folder: Path) -> list[Path]:
    """Returns the pictures that were written.

    Raises:
        SystemExit: there is no browser, or the page is not as it should be.
    """
    program = find_browser()
    if program is None:
        raise SystemExit("no Chromium found; install it, or set EDGEQ_CHROMIUM to what docs/fetch_chromium.sh prints")
    with tempfile.TemporaryDirectory() as name, Browser(program) as browser:
        page = Path(name) / "report.html"
        write_report(read_runs(runs), page, images_dirs=images)
        shots = {}
        for width in (WIDE_PX, PHONE_PX):
            for dark in (False, True):
                browser.open(page, width, _WINDOW_HEIGHT, dark=dark)
                height = (
                    browser.run(f"Math.ceil({_LAST}.getBoundingClientRect().bottom)") + _MARGIN
                    if width == WIDE_PX
                    else _WINDOW_HEIGHT
                )
                wide = browser.run("document.documentElement.scrollWidth")
                if wide != width:
                    raise SystemExit(f"the page is {wide} pixels wide in a window of {width}")
                shots[width, dark] = Path(name) / f"{width}-{dark}.png"
                browser.screenshot(shots[width, dark], (0, 0, width, height))
        # The images on which two files differ, at phone width.
        browser.open(page, PHONE_PX, _WINDOW_HEIGHT)
        browser.run(f"{_IMAGES}.scrollIntoView({{ behavior: 'instant' }})")
        third = Path(name) / "images.png"
        browser.screenshot(third)
        if browser.complaints:
            raise SystemExit(f"the browser complains: {browser.complaints}")
        written = [folder / "report.png", folder / "report_phone.png"]
        place_side_by_side([shots[WIDE_PX, False]], written[0])
        place_side_by_side([shots[PHONE_PX, False], third, shots[PHONE_PX, True]], written[1])
    return written


def place_side_by_side(pictures: Sequence[Path], target: Path) -> None:
    """Writes pictures of one height next to each other, in few colours so that the file stays small."""
    from PIL import Image

    opened = [Image.open(picture).convert("RGB") for picture in pictures]
    gap = 12
    sheet = Image.new("RGB", (sum(each.width + gap for each in opened) - gap, opened[0].height), (128, 128, 128))
    left = 0
    for each in opened:
        sheet.paste(each, (left, 0))
        left += each.width + gap
    sheet.quantize(_COLORS, dither=Image.Dither.NONE).save(target, optimize=True)


def make_parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="what `edgeq report` takes")
    parser.add_argument("--images", action="append", default=[], type=Path, help="folder of the scored images")
    parser.add_argument("--out", default=FOLDER, type=Path, help="folder of the pictures")
    return parser


def main() -> None:
    """Writes docs/report.png and docs/report_phone.png."""
    arguments = make_parser().parse_args()
    for picture in take(arguments.runs, arguments.images, arguments.out):
        print(f"{picture}  {picture.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
