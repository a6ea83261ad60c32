"""What a COCO file holds: the one place that says it."""

from __future__ import annotations

from typing import Annotated, Any, Generic, TypeVar

import msgspec

from edgeq.boundary import Integer, Plain, Raw, parse_json

Side = Annotated[float, msgspec.Meta(ge=0, le=2**31 - 1)]
"""Width or height of an image."""


class CocoImage(msgspec.Struct, kw_only=True):
    """An image; LVIS names it in `coco_url`, and states which categories were looked for."""

    id: Integer
    file_name: str = ""
    coco_url: str = ""
    width: Side | None = None
    height: Side | None = None
    neg_category_ids: list[Integer] | None = None
    not_exhaustive_category_ids: list[Integer] = []

    @property
    def size_px(self) -> tuple[int, int] | None:
        """Width and height, if the file states them."""
        return (int(self.width), int(self.height)) if self.width and self.height else None


class CocoCategory(msgspec.Struct, kw_only=True):
    """A class of objects."""

    id: Integer
    name: str | Integer
    supercategory: Any = None


class CocoSegment(msgspec.Struct, kw_only=True):
    """A segment of a panoptic map: the number that its pixels have, and its category."""

    id: Integer
    category_id: Integer


class CocoObject(msgspec.Struct, kw_only=True):
    """What is known of an object, but for its category and box.

    The segmentation is parsed only for who asks for it: detectors do not need what most of a file consists of.
    """

    image_id: Integer
    area: float | None = None
    iscrowd: float | bool = 0
    segmentation: Raw = Raw()
    keypoints: list[float] | None = None

    def parsed_segmentation(self, place: str) -> Any:
        """Returns polygons or an RLE as plain values; `None` if there is neither.

        Args:
            place: Where the object stands, for the error.

        Raises:
            InputError: it is nested too deep.
        """
        if not bytes(self.segmentation):
            return None
        return parse_json(self.segmentation, Plain, source=place, kind="polygons or RLE")


class CocoAnnotation(CocoObject, kw_only=True):
    """An object of an image; in a panoptic file all segments of one, with the map's `file_name`."""

    category_id: Integer | None = None
    bbox: list[float | None] | None = None
    file_name: str | None = None
    segments_info: list[CocoSegment] | None = None


Entry = TypeVar("Entry", bound=CocoObject)


class CocoFile(msgspec.Struct, Generic[Entry], kw_only=True):
    """A COCO file with objects; how much is asked of each is for who reads it."""

    images: list[CocoImage]
    annotations: list[Entry]
    categories: list[CocoCategory]
