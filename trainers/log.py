"""What a training leaves for people: `log.csv`, `curves.png`, and events where TensorBoard is installed."""

import csv
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from trainers.curves import can_draw, draw_curves

# Curves are drawn again after this time: an epoch is longer, as a rule.
_REDRAW_SECONDS = 10.0


class RunLog:
    """The log of a training in its run folder.

    Parameters
    ----------
    run_dir : Path
        Exists.
    epoch : int
        Epochs that are done; what an interrupted training wrote beyond them is replaced.
    """

    def __init__(self, run_dir: Path, epoch: int = 0) -> None:
        self.path, self.curves = run_dir / "log.csv", run_dir / "curves.png"
        self.drawn, self.stale = time.monotonic(), False
        self.events = _EventLog(run_dir / "tensorboard", epoch) if find_spec("tensorboard") else None

    def add(self, row: dict[str, Any]) -> None:
        """Write an epoch's row.

        Raises
        ------
        OSError
            If it cannot be written.
        """
        _append_row(self.path, row)
        if self.events is not None:
            self.events.add(row)
        self.stale = True
        if time.monotonic() - self.drawn > _REDRAW_SECONDS:
            self.draw()

    def draw(self) -> None:
        """Draw the curves, if matplotlib is installed and there is something new."""
        if self.stale and can_draw():
            draw_curves(read_log(self.path), self.curves)
        self.drawn, self.stale = time.monotonic(), False

    def close(self) -> None:
        """Draw what is new and close the files."""
        self.draw()
        if self.events is not None:
            self.events.close()


def read_log(path: Path) -> list[dict[str, str]]:
    """Return the rows of a ``log.csv``; none where there is no such file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _append_row(path: Path, row: dict[str, Any]) -> None:
    """Add an epoch's row; one of the same epoch, left by a kill before its checkpoint, is replaced."""
    rows = [r for r in read_log(path) if int(r["epoch"]) < row["epoch"]]
    temporary = path.with_suffix(".part")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, row)
        writer.writeheader()
        writer.writerows([*rows, row])
    temporary.replace(path)


class _EventLog:
    """Scalars for TensorBoard, whatever the framework; its own writer would load TensorFlow where it is."""

    def __init__(self, folder: Path, epoch: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder.mkdir(exist_ok=True)
        self.records = RecordWriter((folder / f"events.out.tfevents.{time.time():017.6f}").open("wb"))
        self._write(Event(file_version="brain.Event:2"))
        # Tells TensorBoard to forget what was written of later epochs before a kill.
        self._write(Event(step=epoch + 1, session_log=SessionLog(status=SessionLog.START)))

    def add(self, row: dict[str, Any]) -> None:
        """Write an epoch's numbers."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=_tag(k), simple_value=float(v)) for k, v in row.items() if k != "epoch"]
        self._write(Event(step=row["epoch"], summary=Summary(value=values)))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self.records.write(event.SerializeToString())
        self.records.flush()

    def close(self) -> None:
        """Close the file."""
        self.records.close()


def _tag(name: str) -> str:
    """Group the losses and the DSC, each in one panel of TensorBoard."""
    group = "dsc" if name.startswith("dsc") else "loss" if name.endswith("_loss") else "training"
    return f"{group}/{name}"
