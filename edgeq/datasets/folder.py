"""The folder of a data set: what its files name is found there, and nowhere else unless the user allows it."""

from __future__ import annotations

import functools
import itertools
import os
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path, PureWindowsPath

from edgeq.boundary import read_text
from edgeq.errors import InputError
from edgeq.inputs.images import IMAGE_SUFFIXES

MAX_NAME_BYTES, MAX_PATH_BYTES = 255, 4096


class OutsideError(InputError):
    """A data set names a file outside its own folder, or by a name that no file can have."""


class DataFolder:
    """A data set's folder.

    Attributes:
        root: The folder, with links resolved.
        allow_outside: Whether files outside of it may be read.
    """

    def __init__(self, root: Path, *, allow_outside: bool = False) -> None:
        self.root = root.resolve()
        self.allow_outside = allow_outside

    def name_of(self, path: Path) -> str:
        """Returns a path as seen from the folder, with `/` on every system."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else path.name

    def contains(self, path: Path) -> bool:
        """Returns whether a path lies in the folder after all its links are followed, or need not."""
        if self.allow_outside:
            return True
        try:
            return Path(os.path.realpath(path)).is_relative_to(self.root)
        except ValueError:  # a name with a null character
            return False

    def locate(self, name: str, starts: Iterable[Path] = (), *, folders: bool = False) -> Path:
        """Returns where a file lies that the data set names.

        Other people's data sets hold paths of other people's machines: a path that leads nowhere is looked for by its
        last parts in the folder, longest first ("/home/x/set/images/1.jpg" is "images/1.jpg" here). Images often lie
        on another disk, behind a link in the folder, whatever the link is called: a file there is not missing.

        Args:
            name: The path as the data set states it.
            starts: Folders that a relative path may start from, in this order; by default the data set's.
            folders: Whether a folder will do.

        Returns:
            The path; of a file that is nowhere, the first place where it should be.

        Raises:
            OutsideError: it leads out of the folder.
        """
        stated = Path(*PureWindowsPath(name).parts) if "\\" in name else Path(name)
        if not _is_possible(stated):
            raise OutsideError(f"{name[:120]!r} in the data set {self.root} cannot be the name of a file")
        candidates = [start / stated for start in starts or (self.root,)]
        parts = [part for part in stated.parts if part not in ("..", ".", stated.anchor)]
        ends = [Path(*parts[index:]) for index in range(len(parts))]
        places = itertools.chain(candidates, (start / end for start in (self.root, *self._links_out) for end in ends))
        is_outside = False
        for path in places:
            if exists(path, folders=folders):
                if self.contains(path):
                    return path
                is_outside = True
        allowed = [] if is_outside else [path for path in candidates if self.contains(path)]
        if allowed:
            return allowed[0]
        raise OutsideError(
            f"{name[:120]!r} leads out of the data set's folder {self.root}; move it there, or give `allow_outside`"
        )

    def images_named(self, name: str) -> list[Path]:
        """Returns the image files anywhere in the folder with the file name of a path or URL."""
        return self._by_name.get(name.replace("\\", "/").rsplit("/", 1)[-1], [])

    def list_images(self, folder: Path) -> list[Path]:
        """Returns the image files below a folder, sorted; links out of the data set are left out."""
        files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
        return [path for path in files if not _is_hidden(path, folder) and path.is_file() and self.contains(path)]

    @functools.cached_property
    def _links_out(self) -> list[Path]:
        """The links to folders elsewhere that lie directly in the folder."""
        links = sorted(path for path in self.root.iterdir() if path.is_symlink() and path.is_dir())
        return [link for link in links if not link.resolve().is_relative_to(self.root)]

    @functools.cached_property
    def _by_name(self) -> Mapping[str, list[Path]]:
        found: dict[str, list[Path]] = defaultdict(list)
        for path in self.list_images(self.root):
            found[path.name].append(path)
        return found


def exists(path: Path, *, folders: bool) -> bool:
    """Returns whether there is a file, or a folder where that will do; an impossible name is nowhere."""
    try:
        return path.is_file() or (folders and path.is_dir())
    except (OSError, ValueError):  # a name that is too long, or with a null character
        return False


def listed_names(file: Path) -> list[str]:
    """Returns the names of images, without suffixes, that a file lists, one per line.

    Raises:
        InputError: it cannot be read, or a line cannot be the name of a file.
    """
    names = [line.strip() for line in read_text(file, kind="a list of images").splitlines() if line.strip()]
    for name in names:
        if not _is_possible(Path(f"{name}.suffix")):
            raise InputError(f"{file}: lists {name[:80]!r}, which cannot be the name of a file")
    return names


def _is_possible(path: Path) -> bool:
    try:
        parts = [os.fsencode(part) for part in path.parts]
    except UnicodeEncodeError:
        return False
    size = sum(map(len, parts)) + len(parts)
    return size < MAX_PATH_BYTES and not any(len(part) > MAX_NAME_BYTES or b"\0" in part for part in parts)


def _is_hidden(path: Path, folder: Path) -> bool:
    """Returns whether a system made the file (`.DS_Store`, `__MACOSX`), and not a person."""
    return any(part.startswith((".", "__MACOSX")) for part in path.relative_to(folder).parts)
