"""The last state on disk: whole and ours, or nothing is known."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from canary_middleware._serving.last_known import LastKnown, LastKnownFile

if TYPE_CHECKING:
    from collections.abc import Callable

RECORDS = {"checkout": {"schema": 1, "name": "checkout", "weight_ppm": 100_000, "phase_reason": "grün"}}


@pytest.fixture
def file(tmp_path: Path) -> LastKnownFile:
    return LastKnownFile(tmp_path / "state" / "last.json")


def test_what_was_saved_is_loaded_with_its_time(file: LastKnownFile) -> None:
    file.save({"checkout": {}}, 1.0)
    file.save(RECORDS, 1_700_000_000.5)

    assert file.load() == LastKnown(RECORDS, 1_700_000_000.5)
    assert [path.name for path in file.path.parent.iterdir()] == ["last.json"]


def test_the_order_of_what_was_saved_is_kept(file: LastKnownFile) -> None:
    """Which of several canaries somebody gets depends on it."""
    file.save({"checkout": {"canary": {"v3": 50, "v2": 50}}}, 1.0)
    found = file.load()

    assert found is not None
    assert list(found.records["checkout"]["canary"]) == ["v3", "v2"]


def test_only_the_user_can_read_it(file: LastKnownFile) -> None:
    file.save(RECORDS, 1.0)

    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700


def test_nothing_is_known_where_there_is_no_file(file: LastKnownFile) -> None:
    assert file.load() is None


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_save_that_fails_leaves_nothing_because_what_was_there_may_have_been_rolled_back(
    file: LastKnownFile, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    file.save(RECORDS, 1.0)
    with monkeypatch.context() as patched:
        patched.setattr(call, full)
        with pytest.raises(OSError, match="No space left"):
            file.save({"checkout": {}}, 2.0)

    assert file.load() is None
    assert list(file.path.parent.iterdir()) == []


def test_the_place_is_taken_only_when_the_whole_file_is_on_disk(
    file: LastKnownFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    sync, replace = os.fsync, Path.replace

    def synced(handle: int) -> None:
        steps.append("synced")
        sync(handle)

    def replaced(path: Path, target: Path) -> Path:
        steps.append("replaced")
        assert json.loads(path.read_text(encoding="utf-8"))["checksum"]
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(Path, "replace", replaced)
    file.save(RECORDS, 1.0)

    assert steps == ["synced", "replaced"]


def rewritten(text: str, **changes: Any) -> str:
    return json.dumps({**json.loads(text), **changes})


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-1],
        lambda text: text.replace("100000", "900000"),
        lambda text: "[]",
        lambda text: "null",
        lambda text: "{}",
        lambda text: "[" * 100_000,
        lambda text: rewritten(text, checksum="0" * 32),
        lambda text: rewritten(text, payload=1),
        lambda text: rewritten(text, payload=None),
        lambda text: rewritten(text, payload="\ud800"),
    ],
)
def test_a_damaged_file_means_that_nothing_is_known(file: LastKnownFile, damage: Callable[[str], str]) -> None:
    file.save(RECORDS, 1.0)
    file.path.write_text(damage(file.path.read_text(encoding="utf-8")), encoding="utf-8")

    assert file.load() is None


@pytest.mark.parametrize(
    "payload", ["[]", "null", "{}", '{"saved_s":1}', '{"saved_s":null,"records":{}}', '{"saved_s":1,"records":[]}',
                '{"saved_s":1,"records":{"checkout":7}}', "[" * 100_000],
)  # fmt: skip
def test_a_whole_file_that_holds_something_else_means_the_same(file: LastKnownFile, payload: str) -> None:
    from canary_middleware._serving.last_known import _checksum

    file.path.parent.mkdir()
    file.path.write_text(json.dumps({"checksum": _checksum(payload), "payload": payload}), encoding="utf-8")

    assert file.load() is None


@given(st.binary(max_size=200))
def test_no_bytes_make_loading_fail(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("last") / "last.json"
    path.write_bytes(content)

    assert LastKnownFile(path).load() is None


def test_a_file_of_another_user_is_not_believed(file: LastKnownFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.save(RECORDS, 1.0)
    uid = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: uid + 1)

    assert file.load() is None


def test_a_link_is_not_followed(file: LastKnownFile, tmp_path: Path) -> None:
    file.save(RECORDS, 1.0)
    link = tmp_path / "link.json"
    link.symlink_to(file.path)

    assert LastKnownFile(link).load() is None


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()

    assert LastKnownFile(tmp_path / "pipe.json").load() is None
    assert LastKnownFile(tmp_path / "folder.json").load() is None


def test_each_store_and_set_of_rollouts_has_its_own_file(tmp_path: Path) -> None:
    def name(url: str, *rollouts: str) -> Path:
        return LastKnownFile.beside(url, rollouts, str(tmp_path)).path

    assert name("redis://a", "x", "y") == name("redis://a", "y", "x")
    assert (
        len({name("redis://a", "x"), name("redis://b", "x"), name("redis://a", "y"), name("redis://a", "x", "y")}) == 4
    )
    assert name("redis://a").parent == tmp_path


def test_without_a_folder_it_is_the_users_own_below_the_temporary_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.gettempdir", lambda: "/somewhere")

    assert LastKnownFile.beside("redis://a", ["x"]).path.parent == Path(f"/somewhere/canary-middleware-{os.getuid()}")


def test_a_container_names_a_directory_that_outlives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_STATE_DIR", str(tmp_path / "state"))
    LastKnownFile.beside("redis://cache:6379/0", ["checkout"]).save({"checkout": {}}, 1.0)

    assert [path.suffix for path in (tmp_path / "state").iterdir()] == [".json"]
