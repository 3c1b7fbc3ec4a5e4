import os

import pytest

from seg_core.errors import ScanError
from seg_core.files import files_below


@pytest.fixture
def tree(tmp_path):
    for name in ("data/b/2", "data/b/1", "data/a/3", "elsewhere/4"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    return tmp_path


def names(tree, where="data"):
    return [file.relative_to(tree / where).as_posix() for file in files_below(tree / where)]


def test_all_files_in_order(tree):
    assert names(tree) == ["a/3", "b/1", "b/2"]


def test_links_are_followed(tree):
    os.symlink(tree / "elsewhere", tree / "data" / "linked")
    os.symlink(tree / "elsewhere" / "4", tree / "data" / "a" / "file")
    assert names(tree) == ["a/3", "a/file", "b/1", "b/2", "linked/4"]


def test_a_folder_is_looked_at_once_and_circles_end(tree):
    os.symlink(tree / "data" / "b", tree / "data" / "c")
    os.symlink(tree / "data", tree / "data" / "a" / "up")
    assert names(tree) == ["a/3", "b/1", "b/2"]
    os.symlink(tree / "elsewhere", tree / "data" / "x")
    os.symlink(tree / "elsewhere", tree / "data" / "y")
    assert names(tree) == ["a/3", "b/1", "b/2", "x/4"]


def test_links_that_lead_nowhere_are_listed(tree):
    os.symlink("nowhere", tree / "data" / "b" / "3")
    os.symlink("self", tree / "data" / "b" / "self")
    assert names(tree) == ["a/3", "b/1", "b/2", "b/3", "b/self"]


def test_a_folder_that_cannot_be_read(tree, monkeypatch):
    def scandir(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(ScanError, match="change its permissions"):
        files_below(tree / "data")


def test_what_holds_the_folder_is_not_looked_into(tree):
    os.symlink("../..", tree / "data" / "a" / "up")
    os.symlink("..", tree / "data" / "study")
    assert names(tree) == ["a/3", "b/1", "b/2"]
