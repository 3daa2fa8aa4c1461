"""The model registry: complete or not there, checked, and never without a way back."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from stream_ad.records import RecordSchema
from stream_ad.registry import ModelRegistry, RegistryError, SchemaMismatch, Snapshot, SnapshotError, require_schema


def a_snapshot(accepted: bool = True, **changes: Any) -> Snapshot:
    settings: dict[str, Any] = {
        "version": "",
        "weights": {
            "layer.weight": torch.arange(6.0).reshape(2, 3),
            "mean": torch.tensor([1e300], dtype=torch.float64),
        },
        "description": {"kind": "test", "n": 3},
        "schema_fingerprint": "f1",
        "features": ["a", "b"],
        "report": {"rows": 10, "share": float("nan")},
        "verdict": {"accepted": accepted, "reasons": [] if accepted else ["bad"]},
        "created_at": 1_930_381_200.0,
        "window": {"values": np.array([[1.9e9 + 0.1, np.nan]])},
    }
    return Snapshot(**(settings | changes))


@pytest.fixture
def registry(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(str(tmp_path / "models"), keep=3)


def test_what_is_saved_comes_back(registry: ModelRegistry) -> None:
    version = registry.save(a_snapshot())
    found = registry.load(version)
    assert found.version == version
    torch.testing.assert_close(found.weights, a_snapshot().weights, rtol=0, atol=0)
    np.testing.assert_array_equal(found.window["values"], a_snapshot().window["values"])  # type: ignore[index]  # it has one
    assert found.description == {"kind": "test", "n": 3}
    assert found.report == {"rows": 10, "share": None}, "strict JSON knows no NaN"


def test_versions_sort_by_time(registry: ModelRegistry) -> None:
    versions = [registry.save(a_snapshot()) for _ in range(5)]
    assert len(set(versions)) == 5
    assert registry.versions() == versions


def test_a_newer_model_is_later_also_after_the_clock_was_set_back(registry: ModelRegistry) -> None:
    version = registry.save(a_snapshot())
    ahead = "20991231T235959999-ffff"
    (Path(registry.path) / version).rename(Path(registry.path) / ahead)
    newer, newest = registry.save(a_snapshot()), registry.save(a_snapshot())
    assert registry.versions() == [ahead, newer, newest]
    assert newest.startswith("21000101T000000001-")
    registry.set_live(newest)
    assert registry.rollback() == newer


@pytest.mark.parametrize("file", ["weights.safetensors", "window.safetensors"])
def test_a_damaged_file_is_refused_by_name(registry: ModelRegistry, file: str) -> None:
    version = registry.save(a_snapshot())
    path = Path(registry.path) / version / file
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(SnapshotError, match=rf"{file} is damaged"):
        registry.load(version)
    path.unlink()
    with pytest.raises(SnapshotError, match=f"{file} is missing"):
        registry.load(version)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 99}', '{"format": 2, "verdict": {}}'])
def test_a_torn_description_is_refused(registry: ModelRegistry, content: str) -> None:
    version = registry.save(a_snapshot())
    (Path(registry.path) / version / "model.json").write_text(content)
    with pytest.raises(SnapshotError):
        registry.load(version)


def test_weights_without_a_sum_are_refused(registry: ModelRegistry) -> None:
    version = registry.save(a_snapshot())
    path = Path(registry.path) / version / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"sha256": {}}))
    with pytest.raises(SnapshotError, match=r"weights\.safetensors is damaged"):
        registry.load(version)


def test_a_model_that_another_version_has_kept_is_not_loaded_and_the_log_says_so(
    registry: ModelRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    version = registry.save(a_snapshot())
    registry.set_live(version)
    path = Path(registry.path) / version / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 1}))
    assert registry.load_live() is None
    assert "the next training replaces it" in caplog.text
    newer = registry.save(a_snapshot())
    assert registry.publish(newer, version)
    assert registry.load_live() is not None


def test_a_damaged_live_model_gives_way_to_the_newest_good_one(registry: ModelRegistry) -> None:
    good, rejected, live = (registry.save(a_snapshot(accepted)) for accepted in (True, False, True))
    registry.set_live(live)
    (Path(registry.path) / live / "weights.safetensors").write_bytes(b"")
    found = registry.load_live()
    assert found is not None
    assert found.version == good
    assert rejected in registry.versions()


@pytest.mark.parametrize("content", [b"", b"2031", b"\xff\xfe", b"../../etc/passwd", b"20310304T090000000-abcd"])
def test_a_pointer_that_cannot_be_made_out_is_no_pointer(registry: ModelRegistry, content: bytes) -> None:
    registry.save(a_snapshot(accepted=False))
    assert registry.live() is None
    assert registry.load_live() is None
    (Path(registry.path) / "live").write_bytes(content)
    assert registry.live() is None
    assert registry.load_live() is None, "a rejected model is no way out"


@pytest.mark.parametrize("content", [b"", b"2031", b"20310304T090000000-abcd"])
def test_a_torn_pointer_gives_way_to_the_newest_good_model(
    registry: ModelRegistry, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    good, _ = registry.save(a_snapshot()), registry.save(a_snapshot(accepted=False))
    assert registry.load_live() is None, "nothing was made live yet"
    (Path(registry.path) / "live").write_bytes(content)
    found = registry.load_live()
    assert found is not None
    assert found.version == good
    assert "names no model that is there" in caplog.text


def test_the_pointer_may_be_a_symbolic_link_that_is_swapped(registry: ModelRegistry) -> None:
    first, second = registry.save(a_snapshot()), registry.save(a_snapshot())
    for name, version in (("one", first), ("two", second)):
        (Path(registry.path) / name).write_text(version)
    (Path(registry.path) / "live").symlink_to("one")
    assert registry.live() == first
    (Path(registry.path) / "next").symlink_to("two")
    (Path(registry.path) / "next").rename(Path(registry.path) / "live")
    assert registry.live() == second


def test_only_what_is_there_becomes_live(registry: ModelRegistry) -> None:
    with pytest.raises(SnapshotError, match="there is no model"):
        registry.set_live("20310304T090000000-abcd")


def test_rollback_goes_to_the_accepted_one_before(registry: ModelRegistry) -> None:
    first, _, second = (registry.save(a_snapshot(accepted)) for accepted in (True, False, True))
    registry.set_live(second)
    assert registry.rollback() == first
    assert registry.live() == first
    with pytest.raises(RegistryError, match="no accepted model before"):
        registry.rollback()
    assert registry.rollback(second) == second


def test_a_second_rollback_does_not_lead_to_what_the_first_one_left(registry: ModelRegistry) -> None:
    good, bad = registry.save(a_snapshot()), registry.save(a_snapshot())
    registry.set_live(bad)
    assert registry.rollback() == good
    marked = registry.list()[1]
    assert (marked.accepted, marked.rolled_back, marked.reasons) == (False, True, [f"rolled back by hand to {good}"])
    registry.set_live(registry.save(a_snapshot()))
    assert registry.rollback() == good
    (Path(registry.path) / good / "weights.safetensors").write_bytes(b"")
    assert registry.load_live() is None, "nor does a damaged live model"


def test_what_a_rollback_passes_over_is_no_way_back_either(registry: ModelRegistry) -> None:
    good, _, live = (registry.save(a_snapshot()) for _ in range(3))
    registry.set_live(live)
    registry.rollback(good)
    assert [model.rolled_back for model in registry.list()] == [False, True, True]
    registry.set_live(registry.save(a_snapshot()))
    assert registry.rollback() == good


def test_a_model_that_was_rolled_back_is_as_before_when_a_person_puts_it_live_again(registry: ModelRegistry) -> None:
    good, bad, refused = (registry.save(a_snapshot(accepted)) for accepted in (True, True, False))
    registry.set_live(bad)
    registry.rollback(good)
    assert registry.rollback(bad) == bad
    assert [(m.accepted, m.rolled_back, m.reasons) for m in registry.list()[:2]] == [(True, False, [])] * 2
    registry.reject_rolled_back(refused, "it flagged all")
    assert registry.rollback(refused) == refused
    assert not registry.list()[2].accepted, "what the gate said stands"
    assert registry.list()[2].reasons == ["bad"]


def test_pruning_keeps_the_newest_and_the_live_one(registry: ModelRegistry) -> None:
    versions = [registry.save(a_snapshot()) for _ in range(6)]
    versions.sort()
    registry.set_live(versions[0])
    registry.prune()
    assert registry.versions() == [versions[0], *versions[3:]]


def test_pruning_leaves_a_way_back_however_many_are_rejected(registry: ModelRegistry) -> None:
    versions = [registry.save(a_snapshot(accepted)) for accepted in (True, True, True, *[False] * 6)]
    registry.set_live(versions[2])
    registry.prune()
    assert {versions[1], versions[2]} <= set(registry.versions())
    assert registry.rollback() == versions[1]


def test_what_a_crash_left_is_no_model_and_is_removed_later(registry: ModelRegistry) -> None:
    registry.save(a_snapshot())
    leftover = Path(registry.path) / ".tmp-20310304T090000000-abcd"
    leftover.mkdir()
    (leftover / "weights.safetensors").write_bytes(b"half")
    assert len(registry.versions()) == 1
    registry.prune()
    assert leftover.exists(), "another process may just be writing it"
    os.utime(leftover, (0, 0))
    registry.prune()
    assert not leftover.exists()


def test_a_save_that_fails_leaves_nothing(registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.check_writable()

    def full(self: Path, target: Path) -> Path:
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OSError, match="no space"):
        registry.save(a_snapshot())
    assert list(Path(registry.path).iterdir()) == []


@pytest.mark.parametrize("write", ["save", "save_window", "reject_rolled_back", "set_live"])
def test_on_a_full_disk_nothing_is_left_that_keeps_it_full(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch, write: str
) -> None:
    version = registry.save(a_snapshot())
    registry.set_live(version)
    before = sorted(Path(registry.path).rglob("*"))
    written = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        written(self, content[: len(content) // 2])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    arguments: dict[str, tuple[Any, ...]] = {
        "save": (a_snapshot(),),
        "save_window": ({"values": np.ones(3)},),
        "reject_rolled_back": (version, "bad"),
        "set_live": (version,),
    }
    with pytest.raises(OSError, match="no space"):
        getattr(registry, write)(*arguments[write])
    assert sorted(Path(registry.path).rglob("*")) == before
    assert registry.load_live() is not None


def test_the_window_of_the_last_run(registry: ModelRegistry) -> None:
    registry.check_writable()
    assert registry.load_window() is None
    registry.save_window({"values": np.array([[1.0, np.nan]])})
    np.testing.assert_array_equal(registry.load_window()["values"], [[1.0, np.nan]])  # type: ignore[index]  # it is there
    path = Path(registry.path) / "window.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    assert registry.load_window() is None


def test_a_crash_between_sum_and_window_leaves_the_old_window(
    registry: ModelRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.check_writable()
    registry.save_window({"values": np.array([1.0])})
    whole = registry._store.write_file

    def crash(name: str, content: bytes) -> None:
        if name == "window.safetensors":
            raise KeyboardInterrupt
        whole(name, content)

    with monkeypatch.context() as patch:
        patch.setattr(registry._store, "write_file", crash)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                registry.save_window({"values": np.array([2.0])})
    np.testing.assert_array_equal(registry.load_window()["values"], [1.0])  # type: ignore[index]  # it is there
    registry.save_window({"values": np.array([3.0])})
    np.testing.assert_array_equal(registry.load_window()["values"], [3.0])  # type: ignore[index]  # it is there


def test_a_model_of_another_schema_is_refused_with_the_difference() -> None:
    schema = RecordSchema(["a", "b"])
    snapshot = a_snapshot(schema_fingerprint=schema.fingerprint)
    require_schema(snapshot, schema)
    with pytest.raises(SchemaMismatch, match=r"new: c; gone: b.*registry.path"):
        require_schema(snapshot, RecordSchema(["a", "c"]))
    with pytest.raises(SchemaMismatch, match="another order"):
        require_schema(snapshot, RecordSchema(["b", "a"]))


def test_a_model_of_another_context_is_refused_with_both(registry: ModelRegistry) -> None:
    schema = RecordSchema(["a", "b"], window=16, calendar=True)
    version = registry.save(a_snapshot(schema_fingerprint=schema.fingerprint, context=schema.context))
    snapshot = registry.load(version)
    require_schema(snapshot, schema)
    learned = r"was learned with schema.window = 16 and schema.calendar = true, the configuration has"
    for other in (RecordSchema(["a", "b"]), RecordSchema(["a", "b"], window=16)):
        with pytest.raises(SchemaMismatch, match=learned):
            require_schema(snapshot, other)
    with pytest.raises(SchemaMismatch, match=r"has schema.window = 8 and schema.calendar = true: .* registry.path"):
        require_schema(snapshot, RecordSchema(["a", "b"], window=8, calendar=True))


def test_a_folder_that_cannot_be_made_is_found_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match=r"registry\.path"):
        ModelRegistry(str(tmp_path / "file" / "models"), 3).check_writable()


def test_listing_skips_what_cannot_be_read(registry: ModelRegistry) -> None:
    good, torn = registry.save(a_snapshot()), registry.save(a_snapshot())
    (Path(registry.path) / torn / "model.json").write_text("{")
    (summary,) = registry.list()
    assert (summary.version, summary.created) == (good, "2031-03-04T09:00:00+00:00")
