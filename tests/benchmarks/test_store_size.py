"""The benchmark of the store on a small one: what it asks for is there, and its rows are those of the API."""

from __future__ import annotations

from benchmarks import store_size
from edgeq.tuning.store import Store


def test_what_is_asked_of_a_store_is_in_the_tables(tmp_path, monkeypatch):
    monkeypatch.setattr(
        store_size, "cpu_seconds", lambda _arguments, _repeats=0: 0.5
    )  # commands have tests of their own
    monkeypatch.setattr(store_size, "DETECTIONS", 2000)
    monkeypatch.setattr(store_size, "WRITTEN", 40)
    page = store_size.run(tmp_path, tmp_path, 1000).read_text()
    assert "| predictions | 10,000 |" in page
    assert page.count("| `edgeq runs") == 7
    assert [path.name for path in tmp_path.iterdir()] == ["store_size.md"]


def test_rows_written_at_once_are_those_of_the_api(tmp_path):
    store_size.fill(tmp_path / "one by one.sqlite", range(20), store_size.PER_TRIAL, store_size.class_scores)
    store_size.fill_at_once(tmp_path / "at once.sqlite", 20)
    found = []
    for name in ("one by one", "at once"):
        with Store(tmp_path / f"{name}.sqlite", create=False) as store:
            rows = store.rows()
            images = store_size.image_digests()[:200]
            found.append(
                [(row.key, row.facts, row.images, row.measures, store.predictions(row.number, images)) for row in rows]
            )
    assert found[0] == found[1]
