import struct
import sys

import numpy as np
import pytest
from PIL import Image

from trainers.curves import draw_boxes, draw_curves
from trainers.log import RunLog, _tag, read_log


def row(epoch, dsc=0.5):
    return {
        "epoch": epoch, "train_loss": 1 / epoch, "validation_loss": 1.2 / epoch,
        "dsc": dsc, "dsc_tibia": dsc, "dsc_femur": dsc, "lr": 1e-4,
    }  # fmt: skip


def test_rows_of_an_interrupted_epoch_are_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.log.can_draw", lambda: False)
    log = RunLog(tmp_path)
    for epoch in (1, 2, 3):
        log.add(row(epoch))
    log.close()
    assert not (tmp_path / "curves.png").exists()
    again = RunLog(tmp_path, 1)
    again.add(row(2, 0.75))
    again.close()
    assert [(r["epoch"], r["dsc"]) for r in read_log(tmp_path / "log.csv")] == [("1", "0.5"), ("2", "0.75")]
    assert read_log(tmp_path / "none.csv") == []


def test_curves_are_drawn_at_the_end_and_only_if_there_is_something_new(tmp_path):
    log = RunLog(tmp_path)
    log.add(row(1))
    log.close()
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (900, 360)
    (tmp_path / "curves.png").unlink()
    RunLog(tmp_path, 1).close()
    assert not (tmp_path / "curves.png").exists()


def test_curves_show_every_number(tmp_path):
    def drawn(rows):
        draw_curves(rows, tmp_path / "c.png")
        with Image.open(tmp_path / "c.png") as picture:
            return np.asarray(picture.convert("L"), int)

    rows = [row(epoch, 0.1 * epoch) for epoch in range(1, 6)]
    first = drawn(rows)
    assert np.array_equal(first, drawn(rows))
    middle = first.shape[1] // 2
    for name, column in (("validation_loss", slice(middle)), ("dsc_femur", slice(middle, None))):
        changed = np.abs(drawn([*rows[:-1], rows[-1] | {name: 0.05}]) - first)
        assert changed[:, column].max() > 50
        assert [p.name for p in tmp_path.iterdir()] == ["c.png"]


def test_boxes_leave_out_what_is_not_there(tmp_path):
    draw_boxes({"tibia": [0.9, 0.95, np.nan], "femur": [0.8], "none": [np.nan]}, tmp_path / "b.png", "title")
    with Image.open(tmp_path / "b.png") as picture:
        assert picture.width == 440  # two boxes
        assert np.asarray(picture.convert("L")).min() < 100


def test_boxes_of_a_bad_network_say_what_their_axis_is(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("trainers.curves._save", lambda figure, path: drawn.append(figure))
    draw_boxes({"tibia": [0.0022, 0.0025, 0.003]}, tmp_path / "b.png")
    drawn[0].draw_without_rendering()
    label = drawn[0].axes[0].yaxis.label
    assert label.get_text() == "DSC"
    assert label.get_window_extent().x0 >= 0


def test_a_picture_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    draw_boxes({"tibia": [0.9]}, tmp_path / "b.png")
    before = (tmp_path / "b.png").read_bytes()

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Figure, "savefig", full)
    with pytest.raises(OSError, match="No space"):
        draw_boxes({"tibia": [0.5]}, tmp_path / "b.png")
    assert (tmp_path / "b.png").read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["b.png"]


def records(path):
    """Events in a file, by the format's own words: length, its checksum, data, their checksum."""
    from tensorboard.compat.proto.event_pb2 import Event

    raw, events = path.read_bytes(), []
    while raw:
        (length,) = struct.unpack("<Q", raw[:8])
        events.append(Event.FromString(raw[12 : 12 + length]))
        raw = raw[16 + length :]
    return events


def test_tensorboard_gets_every_number(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard", reason="the package tensorboard is not installed")
    monkeypatch.setattr("trainers.log.can_draw", lambda: False)
    before = "tensorflow" in sys.modules
    for done in (0, 1):
        log = RunLog(tmp_path, done)
        log.add(row(done + 1, 0.25 + 0.5 * done))
        log.close()
    assert ("tensorflow" in sys.modules) == before
    first, second = (records(path) for path in sorted((tmp_path / "tensorboard").iterdir()))
    assert first[0].file_version == "brain.Event:2"
    assert second[1].session_log.status == 1
    assert second[1].step == 2
    values = {value.tag: value.simple_value for value in second[2].summary.value}
    assert values["dsc/dsc_tibia"] == 0.75
    assert set(values) == {
        "loss/train_loss", "loss/validation_loss", "dsc/dsc", "dsc/dsc_tibia", "dsc/dsc_femur", "training/lr",
    }  # fmt: skip


def test_a_class_is_no_loss_whatever_its_name():
    assert _tag("dsc_palatoglossus") == "dsc/dsc_palatoglossus"


def test_without_tensorboard_there_is_no_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("trainers.log.find_spec", lambda name: None)
    log = RunLog(tmp_path)
    log.add(row(1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.csv"]
