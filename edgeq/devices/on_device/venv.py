"""Makes a virtual environment that sees the system's packages, by the device's own pip; prints one JSON object.

Arguments: the folder that edgeq keeps things in, the environment's name there, requirements. It appears whole or not at
all -> {"python": its interpreter}, or {"error": reason}.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


def main() -> None:
    """Makes it, unless it is there."""
    root, name, *requirements = sys.argv[1:]
    target = Path(root) / name
    answer = {"python": str(target / "bin" / "python")}
    if target.is_dir():
        os.utime(target)  # store.py removes what is not used
    else:
        Path(root).mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=".edgeq-", dir=root))
        try:
            _run(sys.executable, "-m", "venv", "--system-site-packages", str(temporary))
            pip = ["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check"]
            _run(str(temporary / "bin" / "python"), *pip, "--", *requirements)
            temporary.rename(target)
        except subprocess.CalledProcessError as error:
            answer = {"error": (error.stderr.strip().splitlines() or [str(error)])[-1]}
        except OSError as error:
            answer = {"error": str(error)}
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    print(json.dumps(answer))


def _run(*command: str) -> None:
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=True)


if __name__ == "__main__":
    main()
