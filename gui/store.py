"""What was asked for and what became of it, on disk: a row a job in SQLite, a folder a job beside it."""

import json
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import peewee

from seg_core.errors import OutputError, UsageError

Kind = Literal["segment", "prepare", "train", "export", "evaluate"]
State = Literal["queued", "running", "done", "failed", "cancelled", "cut short"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled", "cut short")


@dataclass(frozen=True)
class Job:
    """A piece of work.

    Parameters
    ----------
    id : int
        Counted from 1, in the order asked for; that of a job that was removed is not used again.
    kind : Kind
        The command of `lls`.
    title : str
        What the page calls it; nothing of the patient.
    request : mapping
        What the user asked for, see `gui.requests`.
    state : State
        ``cut short``: its process, or the page's, was killed.
    created, started, ended : float
        Seconds since 1970; None where that is to come.
    exit_code : int, optional
        Of the command.
    message : str
        What went wrong, in words.
    parent : int, optional
        The job whose folder it works in or whose result it looks at.
    """

    id: int
    kind: Kind
    title: str
    request: Mapping[str, Any]
    state: State
    created: float
    started: float | None
    ended: float | None
    exit_code: int | None
    message: str
    parent: int | None

    @property
    def is_over(self) -> bool:
        """Whether nothing more happens."""
        return self.state in ENDED


class Store:
    """The jobs of a folder, for one page at a time.

    Parameters
    ----------
    folder : Path
        Made where it is missing; only its owner may look into it.

    Attributes
    ----------
    version : int
        Grows with every change of a job.

    Raises
    ------
    UsageError
        If another page uses it.
    OutputError
        If it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.root, self.version = folder.resolve(), 0
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in ("jobs", "models", "datasets", "runs", "uploads"):
                (self.root / name).mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be made: {error.strerror}", fix="name another --store"
            ) from error
        self._lock = _lock(self.root / "lock.db")
        self._database = peewee.SqliteDatabase(str(self.root / "jobs.db"), pragmas={"journal_mode": "wal"})
        self._jobs, self._settings = _tables(self._database)
        self._database.create_tables([self._jobs, self._settings])
        _never_reuse_numbers(self._database, self._jobs)

    def close(self) -> None:
        """Let another page use the folder."""
        self._database.close()
        self._lock.close()

    def add(self, kind: Kind, title: str, request: Mapping[str, Any], parent: int | None = None) -> Job:
        """Put a job in the queue, and make its folder."""
        assert kind in get_args(Kind)
        row = self._jobs.create(
            kind=kind, title=title, request=json.dumps(dict(request)), created=time.time(), parent=parent
        )
        self.version += 1
        job = _job(row)
        self.folder(job).mkdir(parents=True, exist_ok=True)
        return job

    def get(self, number: int) -> Job | None:
        """Return a job; None where there is none of that number."""
        row = self._jobs.get_or_none(self._jobs.id == number)
        return _job(row) if row else None

    def jobs(self, kind: Kind | None = None, parent: int | None = None) -> list[Job]:
        """Return jobs, the newest first."""
        query = self._jobs.select().order_by(self._jobs.id.desc())
        if kind is not None:
            query = query.where(self._jobs.kind == kind)
        if parent is not None:
            query = query.where(self._jobs.parent == parent)
        return [_job(row) for row in query]

    def change(self, job: Job, **fields: Any) -> Job:
        """Write fields of a job; return it as it is then."""
        self._jobs.update(fields).where(self._jobs.id == job.id).execute()
        self.version += 1
        changed = self.get(job.id)
        assert changed is not None
        return changed

    def remove(self, job: Job) -> None:
        """Remove a job with its folder, and those that looked at its result."""
        for child in self.jobs(parent=job.id):
            self.remove(child)
        shutil.rmtree(self.folder(job), ignore_errors=True)
        self._jobs.delete().where(self._jobs.id == job.id).execute()
        self.version += 1

    def folder(self, job: Job) -> Path:
        """Return where a job's log, and what it makes, lie."""
        return self.root / "jobs" / f"{job.id:05d}"

    def free_name(self, folder: str, wanted: str, end: str = "") -> Path:
        """Return a path in a folder of the store that nothing has yet, and that no job will write."""
        named = {path for job in self.jobs() for path in paths_in(dict(job.request))}
        number, path = 2, self.root / folder / f"{wanted}{end}"
        while path.exists() or str(path) in named:
            number, path = number + 1, self.root / folder / f"{wanted}-{number}{end}"
        return path

    def cut_short(self) -> list[Job]:
        """Return the jobs that were running when the page was last killed; they are marked so."""
        words = "lls gui ended while this ran"
        running = [job for job in self.jobs() if job.state == "running"]
        return [self.change(job, state="cut short", ended=time.time(), message=words) for job in running]

    def setting(self, name: str, default: Any = None) -> Any:
        """Return a setting of the page."""
        row = self._settings.get_or_none(self._settings.name == name)
        return json.loads(row.value) if row else default

    def set(self, name: str, value: Any) -> None:
        """Keep a setting of the page."""
        self._settings.replace(name=name, value=json.dumps(value)).execute()


def paths_in(value: Any) -> Iterator[str]:
    """Return the absolute paths among what was asked for."""
    if isinstance(value, str) and Path(value).is_absolute() and Path(value).name:
        yield value
    elif isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from paths_in(inner)


def _lock(path: Path) -> sqlite3.Connection:
    """Hold a lock that ends with this process, on every system that SQLite knows."""
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        connection.close()
        raise UsageError(
            f"another page uses {path.parent}", "one page a folder", "use that page, or name another --store"
        ) from error
    return connection


def _tables(database: peewee.Database) -> tuple[Any, Any]:
    class JobRow(peewee.Model):
        id = peewee.AutoField(constraints=[peewee.SQL("AUTOINCREMENT")])
        kind = peewee.CharField()
        title = peewee.CharField()
        request = peewee.TextField()
        state = peewee.CharField(default="queued")
        created = peewee.FloatField()
        started = peewee.FloatField(null=True)
        ended = peewee.FloatField(null=True)
        exit_code = peewee.IntegerField(null=True)
        message = peewee.TextField(default="")
        parent = peewee.IntegerField(null=True)

        class Meta:
            table_name = "job"

    class SettingRow(peewee.Model):
        name = peewee.CharField(primary_key=True)
        value = peewee.TextField()

        class Meta:
            table_name = "setting"

    database.bind([JobRow, SettingRow])
    return JobRow, SettingRow


def _never_reuse_numbers(database: Any, jobs: Any) -> None:
    """Have a store of an earlier version count on, where it gave the number of a removed job again."""
    (made,) = database.execute_sql("SELECT sql FROM sqlite_master WHERE name = 'job'").fetchone()
    if "AUTOINCREMENT" in made:
        return
    columns = ", ".join(jobs._meta.columns)
    with database.atomic():
        database.execute_sql("ALTER TABLE job RENAME TO job_before")
        jobs.create_table()
        database.execute_sql(f"INSERT INTO job ({columns}) SELECT {columns} FROM job_before")
        database.execute_sql("DROP TABLE job_before")


def _job(row: Any) -> Job:
    fields = {name: getattr(row, name) for name in Job.__dataclass_fields__}
    return Job(**fields | {"request": json.loads(row.request)})
