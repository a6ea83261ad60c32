"""The zoo's names answer without torch, because the command line lists them."""

from __future__ import annotations

import subprocess
import sys

from edgeq.models.names import is_zoo_name, zoo_names


def test_every_name_is_known_and_no_other():
    assert len(set(zoo_names())) == len(zoo_names())
    assert {"centernet_shapes", "centernet_resnet18", "centernet_resnet101", "resnet50"} <= set(zoo_names())
    assert all(is_zoo_name(name) for name in zoo_names())
    assert not is_zoo_name("yolox") and not is_zoo_name("")


def test_names_do_not_import_torch():
    code = "import sys, edgeq.models.names; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
