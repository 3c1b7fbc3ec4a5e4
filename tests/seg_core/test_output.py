import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seg_core.errors import OutputError
from seg_core.output import check_free, earlier_outputs, staged_output, write_whole


def write_run(target, name="leg", text="new", files=("leg_dseg.nii.gz",), overwrite=False):
    with staged_output(target, name, overwrite) as stage:
        for file in files:
            (stage / file).write_text(text)
        outputs = [{"file": file} for file in files]
        (stage / f"{name}_report.json").write_text(json.dumps({"outputs": outputs}))


def fail_while_writing(target, error):
    with staged_output(target, "leg", overwrite=True) as stage:
        (stage / "leg_dseg.nii.gz").write_text("half")
        raise error


def tree(folder):
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def everything(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


def test_files_arrive_in_a_new_folder(tmp_path):
    write_run(tmp_path / "a" / "out")
    assert everything(tmp_path) == ["a", "a/out", "a/out/leg_dseg.nii.gz", "a/out/leg_report.json"]


def test_files_arrive_beside_what_is_there(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write_run(tmp_path)
    assert tree(tmp_path)["notes.txt"] == "mine"
    assert everything(tmp_path) == ["leg_dseg.nii.gz", "leg_report.json", "notes.txt"]


def test_an_existing_file_is_refused_and_nothing_changes(tmp_path):
    (tmp_path / "leg_dseg.nii.gz").write_text("old")
    with pytest.raises(OutputError, match="exists already"):
        write_run(tmp_path)
    assert tree(tmp_path) == {"leg_dseg.nii.gz": "old"}


def test_overwrite_replaces_an_earlier_run_and_removes_what_it_no_longer_writes(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    write_run(tmp_path, text="old", files=("leg_dseg.nii.gz", "leg_label-left_tibia.ply"))
    write_run(tmp_path, overwrite=True)
    assert everything(tmp_path) == ["leg_dseg.nii.gz", "leg_report.json", "notes.txt"]
    assert tree(tmp_path)["leg_dseg.nii.gz"] == "new"


def test_overwrite_does_not_touch_a_file_that_no_report_lists(tmp_path):
    write_run(tmp_path, text="old")
    (tmp_path / "leg_statistics.csv").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(OutputError, match="no earlier leg_report"):
        write_run(tmp_path, files=("leg_dseg.nii.gz", "leg_statistics.csv"), overwrite=True)
    assert tree(tmp_path) == before


@pytest.mark.parametrize(
    "listed", ["../leg_x", "/etc/leg_x", "leg_/../../x", "other_dseg", "leg_..\\x", 7, None]
)
def test_a_report_cannot_name_files_that_are_not_its_own(tmp_path, listed):
    (tmp_path / "leg_report.json").write_text(json.dumps({"outputs": [{"file": listed}]}))
    assert earlier_outputs(tmp_path, "leg") == {"leg_report.json"}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"outputs": 3}', '{"outputs": [3]}'])
def test_a_report_that_is_none_lists_nothing(tmp_path, text):
    (tmp_path / "leg_report.json").write_text(text)
    assert earlier_outputs(tmp_path, "leg") == frozenset()


@pytest.mark.parametrize(
    ("code", "said"),
    [(errno.ENOSPC, "no space"), (errno.EACCES, "no permission"), (errno.EROFS, "no permission")],
)
@pytest.mark.parametrize("there", [False, True])
def test_a_failing_disk_leaves_nothing(tmp_path, code, said, there):
    target = tmp_path / "deep" / "out"
    if there:
        write_run(target, text="old")
    before = everything(tmp_path)
    with pytest.raises(OutputError, match=said):
        fail_while_writing(target, OSError(code, os.strerror(code)))
    assert everything(tmp_path) == before


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_an_interruption_leaves_nothing(tmp_path, error):
    with pytest.raises(error):
        fail_while_writing(tmp_path / "deep" / "out", error())
    assert everything(tmp_path) == []


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("moved", range(5))
def test_a_failure_while_moving_puts_everything_back(tmp_path, monkeypatch, error, moved):
    files = ("leg_a", "leg_b")
    write_run(tmp_path, text="old", files=files)
    before = tree(tmp_path)
    rename, calls = Path.rename, []

    def failing(self, target):
        calls.append(self)
        if len(calls) == moved + 1:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises((OutputError, KeyboardInterrupt)):
        write_run(tmp_path, files=files, overwrite=True)
    assert tree(tmp_path) == before


def test_a_file_whose_text_names_what_is_no_text(tmp_path):
    write_whole(tmp_path / "a.csv", "M\udcfcller, M\u00fcller")
    assert (tmp_path / "a.csv").read_bytes() == b"M\\udcfcller, M\xc3\xbcller"


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(OutputError, match="is a file"):
        check_free(tmp_path / "out", "leg", ["leg_dseg.nii.gz"])
    for target in (tmp_path / "out", tmp_path / "out" / "deeper"):
        with pytest.raises(OutputError):
            write_run(target)
    assert tree(tmp_path) == {"out": "mine"}


def test_check_free_passes_where_nothing_is_in_the_way(tmp_path):
    write_run(tmp_path)
    check_free(tmp_path, "leg", ["leg_dseg.nii.gz"], overwrite=True)
    check_free(tmp_path / "new", "leg", ["leg_dseg.nii.gz"])
    with pytest.raises(OutputError):
        check_free(tmp_path, "leg", ["leg_dseg.nii.gz"])


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot hold a folder")
def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not(tmp_path):
    work = "with staged_output(sys.argv[1], sys.argv[2]): print(flush=True); sys.stdin.read()"
    code = f"import sys; from seg_core.output import staged_output\n{work}"
    killed, living, other = (
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "out"), name],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for name in ("leg", "leg", "leg-1")
    )  # fmt: skip
    for process in (killed, living, other):
        assert process.stdout is not None
        process.stdout.readline()
    left = {path.name for path in tmp_path.iterdir()}
    assert len(left) == 3
    for process in (killed, other):
        process.kill()
        process.communicate()
    with staged_output(tmp_path / "out", "leg") as stage:
        (stage / "leg_report.json").write_text("{}")
    kept = {path.name for path in tmp_path.iterdir()} - {"out"}
    assert len(kept) == 2  # the living one's, and that of another name
    assert kept < left
    assert living.communicate(b"")[0] == b""
    assert living.returncode == 0
    assert [path.name.startswith(".leg-1-") for path in tmp_path.glob(".*")] == [True]
