import asyncio
import os
from pathlib import Path

import pytest

pytest.importorskip("nicegui", reason="the extra gui is not installed")


def test_what_was_dropped_stays_as_long_as_a_job_speaks_of_it(desk):
    used, unused, sent = (desk.uploads.folder / desk.uploads.begin() for _ in range(3))
    first = desk.store.add("segment", "a", {"scan": str(used / "leg.nii")})
    second = desk.store.add("segment", "b", {"scan": str(used)})
    desk.store.set("subjects", [{"name": "c", "scan": str(sent), "labels": "x"}])
    desk.sweep()
    assert [path.exists() for path in (used, unused, sent)] == [True, False, True]
    new = desk.uploads.folder / desk.uploads.begin()
    asyncio.run(desk.delete(first))
    assert used.exists()
    asyncio.run(desk.delete(second))
    assert not used.exists()
    assert new.exists()  # somebody is looking into it, and has not asked for anything yet
    assert desk.store.jobs() == []


def test_a_training_goes_with_its_run_and_a_network_with_its_file(desk):
    run, model, mine = (desk.store.root / name for name in ("runs/a", "models/a.onnx", "models/mine.onnx"))
    other = desk.store.root / "runs" / "a-2"
    for folder in (run, other):
        folder.mkdir()
    desk.store.add("train", "a-2", {"run": str(other)})
    for file in (model, mine):
        file.write_bytes(b"x")
    training = desk.store.add("train", "a", {"run": str(run)})
    export = desk.store.add("export", "a", {"run": str(run), "model": str(model)}, parent=training.id)
    assert desk.models() == {"default": "bundled with lls", str(model): "a", str(mine): "mine"}
    asyncio.run(desk.delete(export))
    assert desk.models() == {"default": "bundled with lls", str(mine): "mine"}
    assert run.exists()
    asyncio.run(desk.delete(training))
    assert not run.exists()
    assert other.exists()


def test_networks_runs_and_datasets_outlive_the_list_of_jobs(desk):
    kept = [desk.store.root / folder / "mine" for folder in ("runs", "datasets", "models")]
    for folder in kept:
        folder.mkdir()
    desk.sweep()
    assert all(folder.exists() for folder in kept)


def test_where_scans_lie_is_shown_only_where_it_is_asked_for(desk):
    rows = [{"subject": "s", "scan": "/in/Doe^Jane/mr", "labels": str(desk.store.root / "a.nii.gz")}]
    scan = desk.store.add("segment", "a", {"scan": "/in/Doe^Jane", "name": "/", "series": None})
    data = desk.store.add("prepare", "b", {"subjects": rows})
    words = f"/in/Doe^Jane/mr/1 is damaged, {desk.store.root}/a.nii.gz is not"
    assert desk.shown(scan, words) == f"…/mr/1 is damaged, {desk.store.root}/a.nii.gz is not"
    assert desk.shown(data, words) == f"…/1 is damaged, {desk.store.root}/a.nii.gz is not"
    odd = desk.store.add("segment", "c", {"scan": os.fsdecode(b"/in/J\xe9r\xf4me")})
    assert desk.shown(odd, "/in/J\\udce9r\\udcf4me is damaged") == "… is damaged"  # as a log has it
    desk.store.set("reveal", True)
    assert desk.shown(scan, words) == desk.shown(data, words) == words


def test_a_name_that_is_taken_is_numbered(desk):
    (desk.store.root / "runs" / "a").mkdir()
    assert desk.store.free_name("runs", "a").name == "a-2"
    assert desk.store.free_name("runs", "b").name == "b"


def test_a_name_that_a_waiting_job_will_take_is_numbered(desk):
    run = desk.store.free_name("runs", "a")
    desk.store.add("train", "a", {"run": str(run)})
    assert not run.exists()
    assert desk.store.free_name("runs", "a").name == "a-2"


def test_each_network_of_a_training_has_its_own_file_and_goes_alone(desk):
    training = desk.store.add("train", "a", {"run": str(desk.store.root / "runs" / "a")})
    exports = [desk.worker.export(training) for _ in range(2)]
    first, second = files = [Path(one.request["model"]) for one in exports]
    assert [(one.title, one.request["name"]) for one in exports] == [("a", "a"), ("a-2", "a-2")]
    for file in files:
        file.write_bytes(b"x")
    asyncio.run(desk.delete(exports[1]))
    assert desk.models() == {"default": "bundled with lls", str(first): "a"}
    again = desk.worker.again(exports[0])  # as after one that failed
    asyncio.run(desk.delete(exports[0]))
    assert first.exists()
    waiting = desk.store.add("segment", "leg", {"scan": "/a", "model": str(first)})
    asyncio.run(desk.delete(again))
    assert first.exists()
    last = desk.store.add("export", "a", {"model": str(first)})
    desk.store.change(waiting, state="done")
    asyncio.run(desk.delete(last))
    assert not first.exists()
    assert not second.exists()


def test_a_uid_is_shown_only_where_it_is_asked_for(desk):
    scan = desk.store.add("segment", "a", {"scan": "/in", "series": "1.2.34:2"})
    by_number = desk.store.add("segment", "b", {"scan": "/in", "series": "2"})
    assert desk.shown(scan, "no series is called '1.2.34:2'") == "no series is called '…:2'"
    assert desk.shown(by_number, "series 2 of 22") == "series 2 of 22"
    rows = [{"subject": "a", "scan": "/in"}, {"subject": "b", "scan": "/in", "series": "1.2.34"}]
    assert desk.shown(desk.store.add("prepare", "c", {"subjects": rows}), "of '1.2.34'") == "of '…'"
