import asyncio
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("nicegui", reason="the extra gui is not installed")

from gui.places import Places, RefusedError, Uploads, plain_name, readable
from seg_core.errors import ScanError, UsageError


@pytest.fixture
def tree(tmp_path):
    """Two roots, and a folder outside."""
    for name in ("one/inner", "two", "outside"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "outside" / "secret.nii").write_bytes(b"x")
    (tmp_path / "one" / "scan.nii").write_bytes(b"abc")
    (tmp_path / "one" / ".hidden").write_bytes(b"x")
    return tmp_path


@pytest.fixture
def places(tree):
    return Places([tree / "one", tree / "two"])


def test_what_is_below_a_root_is_found(places, tree):
    assert places.find(str(tree / "one" / "scan.nii")) == (tree / "one" / "scan.nii").resolve()
    assert places.find(f'  "{tree / "two"}" ') == (tree / "two").resolve()
    assert places.find("inner") == (tree / "one" / "inner").resolve()


@pytest.mark.parametrize(
    "path",
    ["{}/outside", "{}/outside/secret.nii", "{}/one/../outside/secret.nii", "../outside", "/", "{}/onetwo",
     "{}/outside/not-there", "{}/one/\0"],
)  # fmt: skip
def test_what_lies_outside_is_refused_there_or_not(places, tree, path):
    with pytest.raises(RefusedError, match="outside"):
        places.find(path.format(tree))


def test_links_are_followed_before_they_are_judged(places, tree):
    os.symlink(tree / "outside", tree / "one" / "way-out")
    os.symlink(tree / "two", tree / "one" / "way-in")
    os.symlink("loop", tree / "one" / "loop")
    with pytest.raises(RefusedError):
        places.find(str(tree / "one" / "way-out" / "secret.nii"))
    with pytest.raises((RefusedError, ScanError)):
        places.find(str(tree / "one" / "loop"))
    assert places.find(str(tree / "one" / "way-in")) == (tree / "two").resolve()
    assert [entry.name for entry in places.listing(tree / "one")] == ["inner", "way-in", "scan.nii"]


def test_a_listing_has_folders_first_and_hides_what_is_hidden(places, tree):
    entries = places.listing(tree / "one")
    assert [(entry.name, entry.is_folder, entry.size) for entry in entries] == [
        ("inner", True, 0),
        ("scan.nii", False, 3),
    ]
    with pytest.raises(RefusedError):
        places.listing(tree)


def test_up_ends_at_the_root(places, tree):
    assert places.parent((tree / "one" / "inner").resolve()) == (tree / "one").resolve()
    assert places.parent((tree / "one").resolve()) is None


def test_what_is_not_there_is_said(places, tree):
    with pytest.raises(ScanError, match="not there"):
        places.find(str(tree / "one" / "nothing"))
    with pytest.raises(ScanError):
        places.find("  ")
    with pytest.raises(UsageError):
        Places([tree / "nothing"])


async def chunks(*parts):
    for part in parts:
        yield part


def receive(uploads, drop, name, *parts):
    return asyncio.run(uploads.receive(drop, name, chunks(*parts)))


def test_a_single_file_is_the_scan_and_several_are_a_folder(tmp_path):
    uploads = Uploads(tmp_path)
    drop = uploads.begin()
    file = receive(uploads, drop, "leg.nii.gz", b"ab", b"c")
    assert file.read_bytes() == b"abc"
    assert uploads.scan(drop) == file
    other = receive(uploads, drop, "leg.nii.gz", b"d")
    assert uploads.scan(drop) == tmp_path / drop
    assert sorted(f.name for f in (tmp_path / drop).iterdir()) == sorted([file.name, other.name])
    uploads.discard(drop)
    assert not (tmp_path / drop).exists()


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "..\\x", "a\0b", ".bashrc", "<b>.nii", "", ".."])
def test_a_dropped_file_stays_in_its_folder(tmp_path, name):
    uploads = Uploads(tmp_path / "uploads")
    drop = uploads.begin()
    file = receive(uploads, drop, name, b"x")
    assert file.parent == tmp_path / "uploads" / drop
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [file]


def test_too_much_is_refused_and_leaves_nothing(tmp_path):
    uploads = Uploads(tmp_path, largest=10)
    drop = uploads.begin()
    receive(uploads, drop, "a", b"123456")
    with pytest.raises(RefusedError, match="more than"):
        receive(uploads, drop, "b", b"123", b"45")
    assert [f.name for f in (tmp_path / drop).iterdir()] == ["a"]


def test_files_that_arrive_at_once_share_the_room_and_lose_nothing(tmp_path):
    async def at_once(*files):
        uploads = Uploads(tmp_path, largest=10)
        drop = uploads.begin()

        async def slowly(content):
            for n in range(len(content)):
                await asyncio.sleep(0)
                yield content[n : n + 1]

        coming = [uploads.receive(drop, "IM1", slowly(content)) for content in files]
        found = await asyncio.gather(*coming, return_exceptions=True)
        kept = sorted(file.read_bytes() for file in (tmp_path / drop).iterdir())
        return kept, [error for error in found if isinstance(error, Exception)]

    assert asyncio.run(at_once(b"one", b"two", b"3")) == ([b"3", b"one", b"two"], [])
    kept, (error,) = asyncio.run(at_once(b"1234567", b"abcdef"))
    assert kept in ([b"1234567"], [b"abcdef"])
    assert isinstance(error, RefusedError)


@pytest.mark.parametrize("drop", ["", ".", "..", "0" * 24, "../uploads", "a/b", "{}/other"])
def test_an_unknown_drop_is_refused(tmp_path, drop):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.nii").write_bytes(b"x")
    drop, uploads = drop.format(tmp_path), Uploads(tmp_path / "uploads")
    with pytest.raises(RefusedError, match="drop"):
        receive(uploads, drop, "a", b"x")
    with pytest.raises(RefusedError, match="drop"):
        uploads.scan(drop)
    uploads.discard(drop)
    assert [path.name for path in tmp_path.rglob("*")] == ["other", "mine.nii"]


@given(st.text(max_size=300))
def test_a_plain_name_is_one_that_every_system_takes(name):
    plain = plain_name(name)
    assert plain
    assert len(plain) <= 100
    assert set(plain) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not plain.startswith(".")
    assert plain_name(plain) == plain


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such names")
def test_a_name_that_is_no_utf_8_can_be_shown_and_opened(places, tree):
    folder = Path(os.fsdecode(os.fsencode(tree / "one") + b"/J\xe9r\xf4me"))
    folder.mkdir()
    entry = next(entry for entry in places.listing(tree / "one") if entry.path == folder)
    assert entry.name == "J\ufffdr\ufffdme"
    assert places.find(entry.path) == folder.resolve()
    assert places.listing(entry.path) == []
    assert readable(folder) == f"{tree}/one/J\ufffdr\ufffdme"
    assert readable("wörtlich") == "wörtlich"
