"""`SensitivityResult`: the order of layers, and its JSON."""

from __future__ import annotations

from edgeq.results.sensitivity import Choice, GroupSensitivity, ScoreChange, SensitivityResult, Verdict
from edgeq.results.serialization import RESULTS_VERSION, to_json


def group(name: str, snr_db: float, verdict: Verdict, points: float | None = None) -> GroupSensitivity:
    change = None if points is None else ScoreChange(points=points, low=points - 1, high=points + 1, images=32)
    choice = Choice(snr_db=snr_db, noise_share=0.1, change=change, verdict=verdict)
    return GroupSensitivity(name=name, layers=(name,), quantized_alone=choice, float_alone=choice)


def result(*groups: GroupSensitivity) -> SensitivityResult:
    return SensitivityResult(
        model="net", source_digest="2:a", ranges_digest="b", target="x86", runtime="openvino", task="classification",
        score="top1", by="layer", precision="int8", matters=0.5, float_score=0.9, quantized_score=0.85,
        loss=ScoreChange(points=5.0, low=4.0, high=6.0, images=100), groups=groups, images=100, images_scored=264,
        images_of_all=600, screened_images=4, seed=0,
    )  # fmt: skip


def test_what_matters_comes_first_by_its_points_and_what_does_not_by_its_noise():
    groups = (
        group("quiet", 60.0, "harmless"),
        group("noisy", 40.0, "harmless", points=0.4),
        group("unsure", 45.0, "open", points=0.6),
        group("bad", 30.0, "matters", points=2.0),
        group("worse", 35.0, "matters", points=8.0),
    )
    assert [each.name for each in result(*groups).ranked] == ["worse", "bad", "unsure", "noisy", "quiet"]


def test_its_json_states_the_version_and_says_null_where_nothing_was_scored():
    document = to_json(result(group("quiet", 60.0, "harmless"), group("bad", 30.0, "matters", points=2.0)))
    assert document["results_version"] == RESULTS_VERSION
    quiet, bad = document["groups"]
    assert quiet["quantized_alone"] == {"snr_db": 60.0, "noise_share": 0.1, "change": None, "verdict": "harmless"}
    assert bad["quantized_alone"]["change"] == {"points": 2.0, "low": 1.0, "high": 3.0, "images": 32}
    assert "edgeq" not in document
