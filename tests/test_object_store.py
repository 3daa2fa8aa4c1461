"""The registry in an object store: the same promises as in a folder, and one winner of every race."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from stream_ad.registry import ModelRegistry, RegistryError, RegistryUnavailable, SnapshotError
from stream_ad.registry.snapshot import to_files
from tests.object_store import object_store
from tests.test_registry import a_snapshot


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    with object_store() as url:
        yield url


@pytest.fixture
def registry(bucket: str) -> ModelRegistry:
    return ModelRegistry(f"{bucket}/{uuid.uuid4().hex}", keep=3)


def test_what_is_saved_comes_back(registry: ModelRegistry) -> None:
    registry.check_writable()
    version = registry.save(a_snapshot())
    found = registry.load(version)
    assert (found.version, found.features) == (version, ["a", "b"])
    np.testing.assert_array_equal(found.window["values"], a_snapshot().window["values"])  # type: ignore[index]  # it has one
    assert registry.load(version, with_window=False).window is None
    assert registry.versions() == [version]


def test_a_newer_model_is_later_also_after_the_clock_was_set_back(registry: ModelRegistry) -> None:
    ahead = "20991231T235959999-ffff"
    registry._store.add(ahead, to_files(a_snapshot()))
    newer = registry.save(a_snapshot())
    assert registry.versions() == [ahead, newer]


def test_nothing_is_live_until_it_is_published(registry: ModelRegistry) -> None:
    assert (registry.pointer(), registry.live(), registry.load_live()) == (None, None, None)
    first, second = registry.save(a_snapshot()), registry.save(a_snapshot())
    assert registry.publish(first, None)
    assert not registry.publish(second, None), "it was made with no model live, and now there is one"
    assert registry.live() == first
    assert registry.publish(second, first)
    assert registry.rollback() == first
    assert registry.live() == first
    with pytest.raises(SnapshotError, match="there is no model"):
        registry.set_live("20310304T090000000-abcd")


def test_every_reader_sees_what_another_process_published(registry: ModelRegistry) -> None:
    reader = ModelRegistry(registry.path, 3)
    for _ in range(3):
        version = registry.save(a_snapshot())
        registry.set_live(version)
        assert reader.live() == version


@pytest.mark.parametrize("where", ["folder", "object store"])
def test_of_eight_writers_one_wins(where: str, registry: ModelRegistry, tmp_path: Path) -> None:
    path = str(tmp_path) if where == "folder" else registry.path
    before = ModelRegistry(path, 3).save(a_snapshot())
    ModelRegistry(path, 3).set_live(before)
    writers = [ModelRegistry(path, 20) for _ in range(8)]
    versions = [writer.save(a_snapshot()) for writer in writers]
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda pair: pair[0].publish(pair[1], before), zip(writers, versions, strict=True)))
    assert sum(won) == 1
    assert ModelRegistry(path, 3).live() == versions[won.index(True)]


def test_the_pointer_moves_on_for_longer_than_its_journal(registry: ModelRegistry) -> None:
    versions = [registry.save(a_snapshot()) for _ in range(2)]
    for i in range(23):
        registry.set_live(versions[i % 2])
    assert ModelRegistry(registry.path, 3).live() == versions[0]


def test_a_half_written_snapshot_is_none_and_is_removed_later(registry: ModelRegistry) -> None:
    whole = registry.save(a_snapshot())
    for version in ("20310304T090000000-abcd", "20010304T090000000-abcd"):
        registry._store.write_file(f"{version}/weights.safetensors", b"half")
    registry.prune()
    assert registry.versions() == [whole]
    with pytest.raises(FileNotFoundError):
        registry._store.read("20010304T090000000-abcd", "weights.safetensors")
    assert registry._store.read("20310304T090000000-abcd", "weights.safetensors") == b"half", "it may just be written"


def test_pruning_keeps_the_newest_and_the_live_one(registry: ModelRegistry) -> None:
    versions = sorted(registry.save(a_snapshot()) for _ in range(6))
    registry.set_live(versions[0])
    registry.prune()
    assert registry.versions() == [versions[0], *versions[3:]]


def test_a_model_that_proved_bad_is_marked_and_stays_whole(registry: ModelRegistry) -> None:
    good, bad = sorted(registry.save(a_snapshot()) for _ in range(2))
    registry.reject_rolled_back(bad, "it flagged all")
    assert [(model.version, model.accepted, model.rolled_back) for model in registry.list()] == [
        (good, True, False),
        (bad, False, True),
    ]
    assert registry.load(bad).verdict["reasons"] == ["it flagged all"]
    with pytest.raises(SnapshotError, match="there is no model"):
        registry.reject_rolled_back("20310304T090000000-abcd", "it flagged all")


def test_the_window_of_the_last_run(registry: ModelRegistry) -> None:
    assert registry.load_window() is None
    for last in (1.0, 2.0):
        registry.save_window({"values": np.array([last, np.nan])})
    np.testing.assert_array_equal(registry.load_window()["values"], [2.0, np.nan])  # type: ignore[index]  # it is there


@pytest.mark.parametrize("look", [ModelRegistry.check_writable, ModelRegistry.live])
def test_a_bucket_that_is_not_there_is_named(bucket: str, look: object) -> None:
    with pytest.raises(RegistryError, match=r"s3://nobody-made-it/models.*make the bucket first"):
        look(ModelRegistry("s3://nobody-made-it/models", 3))  # type: ignore[operator]  # a method of it


def test_a_store_that_is_away_is_told_from_one_that_lets_nobody_in(
    bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(RegistryUnavailable, match="cannot be read"):
        ModelRegistry(f"{bucket}/away", 3).live()
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(RegistryError, match="credentials") as found:
        ModelRegistry(f"{bucket}/closed", 3).live()
    assert not isinstance(found.value, RegistryUnavailable)


def test_a_kind_of_store_that_is_not_known_is_refused() -> None:
    with pytest.raises(RegistryError, match=r"registry\.path nowhere://models cannot be opened.*nowhere"):
        ModelRegistry("nowhere://models", 3)
