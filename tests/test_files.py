import hashlib
import json
import os
from pathlib import Path

import pytest

from mofo import files
from mofo.errors import UserError


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_write_text_is_utf_8_with_plain_line_ends(tmp_path):
    files.write_text(tmp_path / "a.txt", "α\nβ\r\n")
    assert (tmp_path / "a.txt").read_bytes() == "α\nβ\r\n".encode()


def test_write_bytes_replaces_what_was_there(tmp_path):
    path = tmp_path / "a.bin"
    for content in (b"old and long", b"new"):
        files.write_bytes(path, content)
        assert contents(tmp_path) == {"a.bin": content}


def test_write_bytes_makes_files_as_readable_as_any_other(tmp_path):
    files.write_bytes(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_write_files_makes_the_folders_that_are_missing(tmp_path):
    wanted = {"page.html": b"page", "plots/a.png": b"a", "plots/deep/b.png": b"b"}
    files.write_files(tmp_path / "report", wanted)
    assert contents(tmp_path / "report") == {name.replace("/", os.sep): content for name, content in wanted.items()}


def test_write_files_writes_none_where_one_cannot_be_written(tmp_path):
    files.write_files(tmp_path, {"a": b"old a", "b": b"old b"})
    before = contents(tmp_path)
    with pytest.raises(TypeError):
        files.write_files(tmp_path, {"a": b"new a", "b": None})
    (tmp_path / "taken").write_bytes(b"a file, so nothing can lie in it")
    with pytest.raises(OSError, match="taken"):
        files.write_files(tmp_path, {"a": b"new a", "b": b"new b", "taken/c": b"c"})
    assert contents(tmp_path) == before | {"taken": b"a file, so nothing can lie in it"}


def test_write_files_leaves_the_old_ones_on_a_full_disk(tmp_path, monkeypatch):
    files.write_files(tmp_path, {"a": b"old a", "b": b"old b"})
    write = Path.write_bytes

    def half(path, content):
        if ".b" in path.name:
            write(path, content[:2])
            raise OSError(28, "No space left on device")
        write(path, content)

    monkeypatch.setattr(Path, "write_bytes", half)
    with pytest.raises(OSError, match="No space left"):
        files.write_files(tmp_path, {"a": b"new a", "b": b"new b"})
    assert contents(tmp_path) == {"a": b"old a", "b": b"old b"}


def test_json_is_read_as_it_was_written(tmp_path):
    value = {"α": [1, 2.5, None, True], "nested": {"text": "a\u2028b"}}
    files.write_json(tmp_path / "a.json", value)
    assert files.read_json(tmp_path / "a.json") == value
    assert "α" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_write_json_leaves_the_old_file_where_a_value_is_no_json(tmp_path):
    files.write_json(tmp_path / "a.json", "old")
    with pytest.raises(TypeError):
        files.write_json(tmp_path / "a.json", {"set": {1}})
    assert contents(tmp_path) == {"a.json": b'"old"\n'}


def test_jsonl_is_read_as_it_was_written_and_appended(tmp_path):
    path = tmp_path / "a.jsonl"
    assert files.read_jsonl(path) == []
    files.write_jsonl(path, iter([{"a": "x\ny\u2028"}, 2]))
    files.append_jsonl(path, None)
    assert files.read_jsonl(path) == [{"a": "x\ny\u2028"}, 2, None]
    assert len(path.read_bytes().splitlines()) == 3


def test_read_jsonl_leaves_out_a_line_that_a_kill_cut_off(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"step": 1}) + "\n" + '{"step": 2')
    assert files.read_jsonl(path) == [{"step": 1}]


def fill(target, *, fail=False):
    with files.new_folder(target) as scratch:
        assert list(scratch.iterdir()) == []
        (scratch / "weights").write_text("new")
        (scratch / "deep").mkdir()
        (scratch / "deep" / "tokens").write_text("new")
        if fail:
            raise OSError("disk full")


def test_new_folder_appears_when_its_body_succeeds(tmp_path):
    fill(tmp_path / "model")
    assert contents(tmp_path) == {f"model{os.sep}weights": b"new", f"model{os.sep}deep{os.sep}tokens": b"new"}
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "model").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_new_folder_replaces_the_old_one_whole(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "stale").write_text("old")
    fill(tmp_path / "model")
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"weights", "deep"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("exists", [False, True])
def test_new_folder_whose_body_fails_changes_nothing(tmp_path, exists):
    if exists:
        (tmp_path / "model").mkdir()
        (tmp_path / "model" / "weights").write_text("old")
    with pytest.raises(OSError, match="disk full"):
        fill(tmp_path / "model", fail=True)
    assert contents(tmp_path) == ({f"model{os.sep}weights": b"old"} if exists else {})
    assert [path.name for path in tmp_path.iterdir()] == (["model"] if exists else [])


def test_new_folder_replaces_what_a_killed_process_left(tmp_path):
    class Killed(BaseException):
        """A kill leaves the scratch folder, which is put back here."""

    def killed():
        with files.new_folder(tmp_path / "model") as scratch:
            (scratch / "half").write_text("made")
            scratch.rename(tmp_path / "kept")
            names.append(scratch.name)
            raise Killed

    names = []
    with pytest.raises(Killed):
        killed()
    (tmp_path / "kept").rename(tmp_path / names[0])
    fill(tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert not (tmp_path / "model" / "half").exists()


def test_new_folder_behind_a_link_leaves_the_link(tmp_path):
    disk = tmp_path / "disk"
    (disk / "runs").mkdir(parents=True)
    (tmp_path / "runs").symlink_to(disk / "runs", target_is_directory=True)
    fill(tmp_path / "runs")
    assert (tmp_path / "runs").is_symlink()
    assert (disk / "runs" / "weights").read_text() == "new"


def test_sha256_of_a_file_larger_than_one_read(tmp_path):
    content = b"mofo" * (1 << 19)
    (tmp_path / "a").write_bytes(content)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_cache_folder_is_the_environments_or_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("MOFO_CACHE", str(tmp_path))
    assert files.cache_folder() == tmp_path
    monkeypatch.setenv("MOFO_CACHE", "")
    assert files.cache_folder().name == "mofo"


def test_new_folder_restores_the_old_one_of_a_process_killed_between_its_renames(tmp_path):
    target = tmp_path / "folder"
    (tmp_path / ".folder.old").mkdir()
    (tmp_path / ".folder.old" / "kept").write_text("old")
    with pytest.raises(ZeroDivisionError), files.new_folder(target):
        raise ZeroDivisionError
    assert contents(tmp_path) == {os.path.join("folder", "kept"): b"old"}


def test_new_file_replaces_the_old_one_when_its_body_succeeds(tmp_path):
    target = tmp_path / "file"
    for content, fails in ((b"old", False), (b"half", True), (b"new", False)):
        try:
            with files.new_file(target) as file:
                file.write(content)
                if fails:
                    raise ZeroDivisionError
        except ZeroDivisionError:
            assert contents(tmp_path) == {"file": b"old"}
    assert contents(tmp_path) == {"file": b"new"}


def test_sole_owner_leaves_nothing_and_shuts_others_out(tmp_path):
    lock = tmp_path / "new" / ".out.lock"
    with files.sole_owner(lock):
        assert lock.exists()
        with pytest.raises(TimeoutError), files.sole_owner(lock):
            pass
        assert lock.exists()
    assert list(lock.parent.iterdir()) == []
    with pytest.raises(ZeroDivisionError), files.sole_owner(lock):
        raise ZeroDivisionError
    assert list(lock.parent.iterdir()) == []


def test_sole_owner_of_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), files.sole_owner(tmp_path / "file" / ".lock"):
        pass


def test_check_place_makes_nothing_and_refuses_where_nothing_can_be_made(tmp_path):
    files.check_place(tmp_path / "new" / "folder", "--output")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for place in ("file", "file/below/it"):
        with pytest.raises(UserError, match=r"file is a file: choose another --output"):
            files.check_place(tmp_path / place, "--output")
    with pytest.raises(UserError, match=r"/proc/new cannot be written \(.+\): choose another --output"):
        files.check_place(Path("/proc/new"), "--output")
