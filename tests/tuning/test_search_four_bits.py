"""What `edgeq tune` makes of a limit on the size of a file: weights of 4 bits where they cost least."""

from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

import edgeq as package
from edgeq.calibration.reconstruction import reconstruct
from edgeq.calibration.reconstruction.learning import Settings
from edgeq.calibration.source import CalibrationSource
from edgeq.datasets import open_split
from edgeq.errors import InputError
from edgeq.exporting.artifact import Artifact
from edgeq.results.serialization import to_json
from edgeq.results.tuning import TuningResult
from edgeq.sources.artifact_file import open_artifact
from edgeq.sources.model import open_model
from edgeq.targets import get_target
from edgeq.tuning.candidate import FLOAT, INT8, W4A8, Candidate
from edgeq.tuning.search_budget import Budget
from edgeq.tuning.search_choice import SearchOptions
from edgeq.tuning.search_sizes import layer_sizes
from edgeq.tuning.trials import Subject
from edgeq.verbs.sensitivity import calibration_of
from edgeq.verbs.tune import TuningFiles, tune_model
from tests.exact import EXACT
from tests.tuning.nets import save_classifier
from tests.tuning.test_sensitivity import TARGET, Net

PRECISIONS = (FLOAT, INT8, W4A8)


@pytest.fixture(scope="module")
def net(tmp_path_factory) -> Net:
    """The classifier whose layer `fragile` does not survive 4 bits, and whose layer `spare` does."""
    net = Net(*save_classifier(tmp_path_factory.mktemp("net"), images=64, outlier=1 / 16, spare=True))
    ranges = net.calib / "ranges.json"
    package.calibrate(package.load(net.file, preset=net.preset), net.calib, threads=1, out=ranges)
    return net._replace(calib=ranges)


@pytest.fixture(autouse=True)
def exact(exact_runtime) -> None:
    """Trials run in exact arithmetic, on any CPU."""


@pytest.fixture(scope="module")
def subject(net, tmp_path_factory) -> Subject:
    return subject_of(net, TARGET, tmp_path_factory.mktemp("subject"))


def subject_of(net: Net, target: str, out: Path) -> Subject:
    model = open_model(net.request).model
    ranges, _ = CalibrationSource(net.calib).ranges(model, out, 1)
    return Subject(model, get_target(target), ranges, "layer")


def written(subject: Subject, folder: Path, **precisions: str) -> Artifact:
    chosen = {name: precision for name, precision in precisions.items() if precision != FLOAT}
    return subject.write(Candidate(chosen), folder / "-".join(precisions.values()))


def uniform(subject: Subject, folder: Path) -> dict[str, Artifact]:
    names = [group.name for group in subject.groups]
    return {each: written(subject, folder, **dict.fromkeys(names, each)) for each in PRECISIONS}


def tune(net: Net, out: Path, budget: Budget, store: Path, **more: Any) -> TuningFiles:
    options = SearchOptions(runtime=EXACT, threads=1, budget=budget)
    source, data = calibration_of(net.labels, net.calib, 512), open_split(net.labels, "evaluation")
    return tune_model(net.request, TARGET, data, source, out, options=options, store=store, **more)


def precisions_of(result: TuningResult) -> dict[str, str]:
    return {group.name: group.precision for group in result.groups}


def types_of(path: Path) -> dict[str, str]:
    """Returns name of a weighted node -> the type that its weight is stored in."""
    graph = onnx.load(path).graph
    stored = {each.name: onnx.TensorProto.DataType.Name(each.data_type) for each in graph.initializer}
    makers = {node.output[0]: node for node in graph.node}

    def root(name: str) -> str:
        return stored[name] if name in stored else root(makers[name].input[0])

    return {node.name: root(node.input[1]) for node in graph.node if node.op_type in ("Conv", "Gemm")}


def test_what_layers_take_adds_up_to_the_size_of_a_file(subject, tmp_path):
    files = uniform(subject, tmp_path)
    sizes = layer_sizes(subject, files)
    names = [group.name for group in subject.groups]
    for precision, file in files.items():
        assert sizes.rest + sizes.of(tuple(names), precision) == pytest.approx(file.size_bytes)
    for chosen in itertools.product(PRECISIONS, repeat=2):
        mixed = {**dict.fromkeys(names, INT8), **dict(zip(("fragile", "spare"), chosen, strict=True))}
        told = sizes.rest + sum(sizes.of((name,), precision) for name, precision in mixed.items())
        assert told == pytest.approx(written(subject, tmp_path, **mixed).size_bytes, abs=600), mixed
    assert sizes.of(("fragile",), INT8) - sizes.of(("fragile",), W4A8) == pytest.approx(64 * 64 / 2, abs=200)


def test_each_layer_of_a_file_is_stored_as_its_candidate_says(subject, tmp_path):
    file = written(subject, tmp_path, sturdy=FLOAT, fragile=INT8, spare=W4A8, head=W4A8)
    assert types_of(file.path) == {"sturdy": "FLOAT", "fragile": "INT8", "spare": "INT4", "head": "INT4"}
    assert file.precision == "w4a8"
    assert file.quantization["w4a8_nodes"] == 2


def test_a_limit_of_size_is_kept_by_4_bits_for_the_layer_that_survives_them(net, subject, tmp_path):
    files = uniform(subject, tmp_path / "files")
    most = (files[INT8].size_bytes + files[W4A8].size_bytes) // 2 + 200
    store = tmp_path / "trials.sqlite"
    found = tune(net, tmp_path / "out", Budget.of(None, None, f"{most}B"), store)
    result, chosen = found.result, found.result.chosen
    assert precisions_of(result)["spare"] == "w4a8"
    assert precisions_of(result)["fragile"] == "int8"
    assert chosen.size_bytes == open_artifact(found.artifact.path).size_bytes <= most < files[INT8].size_bytes
    whole = next(each for each in result.files if each.name == "all w4a8")
    assert whole.points is not None
    assert chosen.points is not None
    assert whole.points > chosen.points + 5
    expected = {"float": "FLOAT", "int8": "INT8", "w4a8": "INT4"}
    assert types_of(found.artifact.path) == {name: expected[each] for name, each in precisions_of(result).items()}
    reasons = {group.name: group.reason for group in result.groups}
    assert "4 bits save" in reasons["spare"]
    assert "4 bits would save" in reasons["fragile"]
    assert chosen.w4a8_layers == list(precisions_of(result).values()).count("w4a8")
    again = tune(net, tmp_path / "again", Budget.of(None, None, f"{most}B"), store)
    assert to_json(again.result) == to_json(result)


def test_a_size_below_all_layers_in_4_bits_is_refused_with_the_smallest(net, subject, tmp_path):
    size = uniform(subject, tmp_path / "files")[W4A8].size_bytes
    with pytest.raises(InputError, match=rf"the smallest file of net for {TARGET} takes") as refused:
        tune(net, tmp_path, Budget.of(None, None, f"{size // 2}B"), tmp_path / "trials.sqlite")
    told = re.search(r"takes ([0-9.]+) MB", str(refused.value))
    assert told is not None
    assert float(told[1]) * 1e6 < size * 1.01


def test_a_file_with_learned_rounding_is_scored_like_others_and_taken_if_it_loses_less(
    net, subject, tmp_path, monkeypatch
):
    monkeypatch.setattr(reconstruct, "Settings", lambda: Settings(iterations=200))
    size, store = uniform(subject, tmp_path / "files")[W4A8].size_bytes, tmp_path / "trials.sqlite"
    budget = Budget.of(None, None, f"{size}B")
    found = tune(net, tmp_path / "out", budget, store, rounding="reconstruct")
    files = {each.name: each for each in found.result.files}
    learned = next(each for name, each in files.items() if name.endswith(" learned"))
    nearest = files[learned.name.removesuffix(" learned")]
    assert (learned.size_bytes, learned.w4a8_layers) == (nearest.size_bytes, nearest.w4a8_layers)
    assert "learned rounding" in learned.recipe
    assert learned.points is not None
    assert nearest.points is not None
    assert learned.points < nearest.points - 5
    assert found.result.recommended == learned.name
    assert open_artifact(found.artifact.path).quantization["reconstruction"]
    again = tune(net, tmp_path / "again", budget, store, rounding="reconstruct")
    assert to_json(again.result) == to_json(found.result)
    with pytest.raises(InputError, match="learns on images, and there are 3"):
        few = CalibrationSource(net.calib.parent, num=3)
        tune_model(
            net.request, TARGET, open_split(net.labels, "evaluation"), few, tmp_path / "few", rounding="reconstruct"
        )


def test_another_version_or_another_grid_of_weights_is_another_trial(subject, monkeypatch):
    candidate = Candidate(dict.fromkeys((group.name for group in subject.groups), W4A8))
    digest, rules = subject.plan_digest(candidate), subject.target.rules
    narrow = {
        name: tuple(
            dataclasses.replace(each, weight=dataclasses.replace(each.weight, narrow_range=True)) for each in found
        )
        for name, found in rules.schemes.items()
    }
    target = dataclasses.replace(subject.target, rules=dataclasses.replace(rules, schemes=narrow))
    other = dataclasses.replace(subject, target=target)
    assert digest == dataclasses.replace(subject).plan_digest(candidate)
    assert other.plan_digest(candidate) != digest
    monkeypatch.setattr(package, "__version__", "0.0.1")
    assert subject.plan_digest(candidate) != digest


def test_a_target_without_kernels_has_no_such_choice(net, tmp_path):
    jetson = subject_of(net, "jetson-orin", tmp_path)
    assert not jetson.four_bits
    asked: Any = {group.name: W4A8 for group in jetson.groups}
    assert set(jetson.layers(Candidate(asked)).values()) == {INT8}
