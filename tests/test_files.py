"""Files and folders are written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
from pathlib import Path

import pytest

from berger.errors import BergerError
from berger.files import held, sha256, write_json, written_whole


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def fill(folder: Path, content: str) -> None:
    folder.mkdir()
    (folder / "inside").mkdir()
    (folder / "inside" / "file").write_text(content)


def test_a_file_appears_when_it_is_finished(tmp_path: Path) -> None:
    target = tmp_path / "new" / "deep" / "file"
    with written_whole(target) as temporary:
        temporary.write_text("half")
        assert not target.exists()
        assert temporary.parent == target.parent  # a rename, not a copy across file systems
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert names(target.parent) == {"file"}


def test_a_file_is_replaced(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with written_whole(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    fill(target, "old")
    (target / "left over").write_text("old")
    with written_whole(target) as temporary:
        fill(temporary, "new")
        assert (target / "inside" / "file").read_text() == "old"
    assert (target / "inside" / "file").read_text() == "new"
    assert names(target) == {"inside"}
    assert names(tmp_path) == {"folder"}


@pytest.mark.parametrize("kind", ["file", "folder"])
@pytest.mark.parametrize("stands", [True, False])
def test_a_failure_leaves_what_stood_there(kind: str, stands: bool, tmp_path: Path) -> None:
    target = tmp_path / "it"
    write = fill if kind == "folder" else Path.write_text
    if stands:
        write(target, "old")

    def interrupted() -> None:
        with written_whole(target) as temporary:
            write(temporary, "half")
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        interrupted()
    assert names(tmp_path) == ({"it"} if stands else set())
    if stands:
        file = target / "inside" / "file" if kind == "folder" else target
        assert file.read_text() == "old"


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "folder"
    fill(target, "old")
    rename = Path.rename

    def fail(self: Path, to: Path) -> Path:
        if self.name.endswith(".part"):
            raise OSError("no")
        return rename(self, to)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(OSError, match="no"), written_whole(target) as temporary:
        fill(temporary, "new")
    assert (target / "inside" / "file").read_text() == "old"
    assert names(tmp_path) == {"folder"}


def test_two_writers_of_one_file_do_not_share_a_temporary(tmp_path: Path) -> None:
    # On a shared disk they may be of one number, on two machines.
    with written_whole(tmp_path / "file") as one, written_whole(tmp_path / "file") as other:
        one.write_text("one")
        other.write_text("other")
        assert one.read_text() == "one"
    assert names(tmp_path) == {"file"}


def test_a_file_does_not_replace_a_folder_nor_a_folder_a_file(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file"
    fill(folder, "old")
    file.write_text("old")
    with pytest.raises(IsADirectoryError), written_whole(folder) as temporary:
        temporary.write_text("new")
    with pytest.raises(NotADirectoryError), written_whole(file) as temporary:
        fill(temporary, "new")
    assert (folder / "inside" / "file").read_text() == file.read_text() == "old"
    assert names(tmp_path) == {"folder", "file"}


def test_json_is_the_same_whatever_the_order_of_keys(tmp_path: Path) -> None:
    write_json(tmp_path / "a", {"b": [1, "µ"], "a": None})
    write_json(tmp_path / "b", {"a": None, "b": [1, "µ"]})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text()) == {"a": None, "b": [1, "µ"]}


def test_what_json_cannot_hold_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    write_json(file, 1)
    with pytest.raises(TypeError):
        write_json(file, {"a": object()})
    assert json.loads(file.read_text()) == 1
    assert names(tmp_path) == {"a"}


def test_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_one_holds_a_lock_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "new" / ".lock"
    for _ in range(2):  # what was let go can be had again
        with (
            held(lock, "cannot be had"),
            pytest.raises(BergerError, match="somebody has it"),
            held(lock, "somebody has it"),
        ):
            pass


def test_a_file_system_without_locks_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(file: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", none)
    with (
        pytest.warns(UserWarning, match=f"{tmp_path}: its file system has no locks"),
        held(tmp_path / ".lock", "cannot be had"),
    ):
        reached = True
    assert reached
