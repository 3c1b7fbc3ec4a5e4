import pytest

pytest.importorskip("peewee", reason="the extra gui is not installed")

from gui import words
from gui.progress import Progress, in_words
from seg_core.errors import ScanError


def bone(name, status="found", voxels=100):
    return {"name": name, "bone": name.split("_")[1], "side": name.split("_")[0], "status": status,
            "voxels": voxels}  # fmt: skip


def report(bones, plausibility=(), checks=(), warnings=()):
    return {"bones": bones, "plausibility": plausibility, "checks": checks, "warnings": warnings}


def failed(detail, check="a check"):
    return {"check": check, "passed": False, "detail": detail}


def test_a_result_without_remarks_is_good():
    found = words.verdict(report([bone("right_tibia")], [{"check": "x", "passed": True, "detail": "fine"}]))
    assert found.tone == "good"


def test_what_is_not_plausible_is_said_once():
    detail = "the right tibia measures 900 mm"
    found = words.verdict(
        report([bone("right_tibia")], [failed(detail)], warnings=[f"not plausible: {detail}"])
    )
    assert (found.tone, found.remarks) == ("look", ("The right tibia measures 900 mm.",))


def test_missing_and_cut_bones_are_named_but_not_those_of_the_leg_that_is_not_there():
    bones = [
        bone("right_tibia", "truncated"),
        bone("right_fibula", "empty", 0),
        bone("left_tibia", "empty", 0),
    ]
    found = words.verdict(report(bones))
    assert found.remarks == (
        "Not found: right fibula.",
        "Cut off by the end of the scan: right tibia.",
    )


def test_no_bone_and_a_broken_file_are_bad():
    assert words.verdict(report([bone("right_tibia", "empty", 0)])).headline == "No bone was found"
    broken = words.verdict(report([bone("right_tibia")], checks=[failed("3 mm apart")]))
    assert broken.tone == "bad"
    assert "failed a check" in broken.headline


@pytest.mark.parametrize(
    ("value", "said"), [(None, "–"), (0.95, "high (0.95)"), (0.7, "fair (0.70)"), (0.3, "low (0.30)")]
)
def test_confidence_in_words(value, said):
    assert words.confidence(value) == said


def test_errors_in_sentences():
    assert words.error_sentences(ScanError("x is empty", "a scan", "check the path")) == [
        "X is empty.",
        "What to do: check the path.",
    ]
    assert words.error_sentences(ValueError("odd")) == ["ValueError: odd."]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, ""),
        (3, "a few seconds left"),
        (42, "40 s left"),
        (150, "2 min left"),
        (7500, "2 h 05 min left"),
        (57, "1 min left"),
        (3590, "1 h 00 min left"),
        (7190, "2 h 00 min left"),
    ],
)
def test_time_left_in_words(seconds, said):
    assert in_words(seconds) == said


def lines(*records):
    import json

    return [json.dumps({"progress": record}) for record in records]


def test_progress_of_a_segmentation_grows_to_nearly_one():
    seconds = iter(range(0, 1000, 10))
    progress = Progress("segment", clock=lambda: next(seconds))
    shares = []
    for step in ("read", "segment", "range", "infer", "write", "mesh", "draw", "check"):
        for done in (0, 5, 10):
            (line,) = lines({"step": step, "doing": step, "done": done, "total": 10})
            assert progress.feed(line)
            shares.append(progress.fraction)
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1.0)
    assert progress.seconds_left == pytest.approx(0.0, abs=1e-6)


def test_progress_of_a_training_is_told_by_it():
    progress = Progress("train")
    tick = {"step": "train", "doing": "training", "epoch": 2, "epochs": 4, "batch": 5, "batches": 10,
            "loss": 0.25, "seconds_left": 60.0}  # fmt: skip
    assert progress.feed(lines(tick)[0])
    assert progress.fraction == pytest.approx(15 / 40)
    assert progress.seconds_left == 60.0
    assert "epoch 2 of 4" in progress.detail


@pytest.mark.parametrize("line", ["", "reading", '{"progress"', '{"progress": 3}', '{"other": {}}'])
def test_other_lines_are_no_progress(line):
    assert not Progress("segment").feed(line)
