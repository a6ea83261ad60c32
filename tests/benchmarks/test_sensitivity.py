"""The benchmark of sensitivity: its statistics, and its section about a small model."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import sensitivity
from edgeq.calibration.source import CalibrationSource
from edgeq.datasets import open_split
from edgeq.sources.model import ModelRequest, open_model
from edgeq.targets import get_target
from edgeq.tasks import find_decoder
from edgeq.tuning.trials import Subject
from tests.tuning.nets import save_classifier


def test_rank_correlation_knows_order_alone_and_shares_ranks_of_equal_values():
    rising = [0.1, 0.2, 0.4, 0.9]
    assert sensitivity.spearman(rising, [1, 10, 100, 1000]) == pytest.approx(1)
    assert sensitivity.spearman(rising, [4, 3, 2, 1]) == pytest.approx(-1)
    # By hand: ranks 1, 2, 3, 4 and 1.5, 1.5, 4, 3.
    assert sensitivity.spearman(rising, [5, 5, 9, 7]) == pytest.approx(0.7378648)


def test_decibels_of_mean_noise_lie_within_their_interval():
    rng = np.random.default_rng(0)
    low, middle, high = sensitivity.decibels(rng.uniform(0.5e-3, 1.5e-3, 200).tolist())
    assert middle == pytest.approx(30, abs=0.3)
    assert middle - 0.5 < low < middle < high < middle + 0.5
    assert sensitivity.decibels([1e-2] * 5) == pytest.approx((20, 20, 20))


def test_a_section_names_the_layer_that_int8_destroys(tmp_path):
    file, preset, labels, calib = save_classifier(tmp_path, images=40)
    model = open_model(ModelRequest(str(file), preset=str(preset))).model
    source = CalibrationSource(calib)
    ranges, _ = source.ranges(model, tmp_path, 1)
    assert model.postprocessing is not None
    task = find_decoder(model.postprocessing).task.from_split(open_split(labels, "evaluation"), "pycocotools")
    case = sensitivity.Case(Subject(model, get_target("arm"), ranges, "layer"), task, source, tmp_path / "s.sqlite")
    section = {"net": lambda: {"lines": sensitivity.both_runs("net", "Net", case, tmp_path)}}
    page = sensitivity.run(section, 8, tmp_path / "work", tmp_path).read_text()
    rows = [line for line in page.splitlines() if line.startswith(("| fragile", "| sturdy", "| head"))]
    assert rows[0].startswith("| fragile")
    assert (tmp_path / "sensitivity_net.svg").is_file()
    assert "missed: none" in page
