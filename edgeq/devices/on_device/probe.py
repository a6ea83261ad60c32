"""Prints what a machine is, as one JSON object. Argument: the folder that edgeq may keep things in.

Runs on Python 3.6 and later, so that a device whose Python is too old for edgeq can say so.
"""

import importlib.util
import json
import os
import platform
import shutil
import struct
import sys
from pathlib import Path


def main() -> None:
    """Prints the object."""
    sys.path[:] = [path for path in sys.path if path]  # not what lies in the home folder
    cache = Path(sys.argv[1]).expanduser().absolute()
    existing = next(folder for folder in (cache, *cache.parents) if folder.is_dir())
    name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ") if _has_glibc() else ("", "", "")
    facts = {
        "system": platform.system(),
        "machine": platform.machine(),
        "bits": 8 * struct.calcsize("P"),
        "implementation": platform.python_implementation(),
        "python": platform.python_version(),
        "libc": name,
        "libc_version": version,
        "cache": str(cache),
        "free_bytes": shutil.disk_usage(str(existing)).free,
        "writable": os.access(str(existing), os.W_OK),
        "tensorrt": importlib.util.find_spec("tensorrt") is not None,
        "venv": all(importlib.util.find_spec(module) is not None for module in ("venv", "ensurepip")),
    }
    print(json.dumps(facts))


def _has_glibc() -> bool:
    return "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", {})


if __name__ == "__main__":
    main()
