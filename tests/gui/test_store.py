import sqlite3
import stat
import sys
from contextlib import closing

import pytest

pytest.importorskip("peewee", reason="the extra gui is not installed")

from gui.store import Store
from seg_core.errors import OutputError, UsageError


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "store")
    yield found
    found.close()


def test_what_was_kept_is_there_after_a_restart(tmp_path):
    store = Store(tmp_path / "store")
    job = store.add("segment", "leg", {"scan": "/a/b", "name": "leg", "hip_slice": None})
    store.change(job, state="done", exit_code=0, message="ä", started=1.0, ended=2.0)
    store.set("dark", True)
    store.close()
    again = Store(tmp_path / "store")
    (found,) = again.jobs()
    assert (found.id, found.state, found.message, found.request["scan"]) == (job.id, "done", "ä", "/a/b")
    assert again.setting("dark") is True
    assert again.setting("nothing", 7) == 7
    again.close()


def test_jobs_come_newest_first_by_kind_and_parent(store):
    first = store.add("segment", "a", {})
    second = store.add("segment", "b", {})
    child = store.add("evaluate", "c", {}, parent=first.id)
    assert [job.id for job in store.jobs("segment")] == [second.id, first.id]
    assert [job.id for job in store.jobs(parent=first.id)] == [child.id]
    store.remove(first)
    assert [job.id for job in store.jobs()] == [second.id]
    assert not store.folder(first).exists()
    assert store.get(child.id) is None


def test_what_ran_when_the_page_was_killed_is_cut_short(store):
    running, done = store.add("segment", "a", {}), store.add("segment", "b", {})
    waiting = store.add("segment", "c", {})
    store.change(running, state="running")
    store.change(done, state="done")
    assert [job.id for job in store.cut_short()] == [running.id]
    assert [store.get(job.id).state for job in (running, done, waiting)] == ["cut short", "done", "queued"]
    assert "ended" in store.get(running.id).message
    assert store.cut_short() == []


def test_every_change_of_a_job_is_a_new_version(store):
    versions = [store.version]
    job = store.add("segment", "a", {})
    versions.append(store.version)
    store.change(job, state="running")
    versions.append(store.version)
    store.jobs()
    assert store.version == versions[-1]
    store.remove(job)
    versions.append(store.version)
    assert versions == sorted(set(versions))


def test_two_pages_do_not_share_a_folder(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="another page"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_nobody_else_may_look_into_it(store):
    assert stat.S_IMODE(store.root.stat().st_mode) == 0o700


def test_a_file_in_its_place_is_said(tmp_path):
    (tmp_path / "store").write_text("x")
    with pytest.raises(OutputError, match="cannot be made"):
        Store(tmp_path / "store")


def test_a_number_is_never_given_again(store):
    job = store.add("segment", "a", {})
    store.remove(job)
    assert store.add("segment", "b", {}).id > job.id


def test_a_store_of_an_earlier_version_counts_on_too(tmp_path):
    store = Store(tmp_path)
    kept, removed = store.add("segment", "ä", {"scan": "/a"}), store.add("train", "b", {}, parent=1)
    store.close()
    with closing(sqlite3.connect(tmp_path / "jobs.db", isolation_level=None)) as database:
        (made,) = database.execute("SELECT sql FROM sqlite_master WHERE name = 'job'").fetchone()
        database.execute("ALTER TABLE job RENAME TO later")
        database.execute(made.replace(" AUTOINCREMENT", ""))
        database.execute("INSERT INTO job SELECT * FROM later")
        database.execute("DROP TABLE later")
    store = Store(tmp_path)
    assert store.jobs() == [removed, kept]
    store.remove(removed)
    assert store.add("segment", "c", {}).id > removed.id
    store.close()
