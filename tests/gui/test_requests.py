import json

import pytest

pytest.importorskip("peewee", reason="the extra gui is not installed")

from cli.main import lls
from gui.requests import arguments, command_line, flags
from gui.store import Store

REQUESTS = {
    "segment": {
        "scan": "/a/-b", "name": "leg", "series": "2", "model": "default", "side": "left", "device": "cpu",
        "hip_slice": 0, "hip_tolerance": 40, "no_denoise": True, "confidence": True, "html": True,
    },
    "prepare": {
        "subjects": [{"subject": "s", "scan": "/a", "labels": "/b"}], "dataset": "/d", "size": 400,
        "pixel_mm": None, "like": None, "labelled_side": "right", "classes": "/t.csv", "hip_slice": 3,
        "tolerance": 50,
    },
    "train": {
        "data": "/d", "validation_subjects": ["a", "-b"], "run": "/r", "trainer": "torch",
        "network": "unet-resnet34", "init": "default", "epochs": 3, "device": "cpu", "epoch_samples": 10,
        "batch": 2, "lr": 0.001, "patience": 4, "validation_samples": 5, "threads": 1,
    },
    "export": {"run": "/r", "model": "/m.onnx", "name": "mine"},
    "evaluate": {"prediction": "/p.nii.gz", "truth": "/t.nii.gz"},
}  # fmt: skip


@pytest.fixture
def job_of(tmp_path):
    """Make a job with a request; returns it and its folder."""
    store = Store(tmp_path)

    def make(kind, request):
        job = store.add(kind, "title", request)
        return job, store.folder(job)

    yield make
    store.close()


@pytest.mark.parametrize("kind", REQUESTS)
def test_the_command_line_understands_what_the_page_asks(job_of, kind):
    job, folder = job_of(kind, REQUESTS[kind])
    name, *rest = arguments(job, folder)
    with lls.make_context("lls", [name, *rest], resilient_parsing=False) as context:
        command = lls.get_command(context, name)
        with command.make_context(name, rest, parent=context) as inner:
            values = inner.params
    for key, value in REQUESTS[kind].items():
        if key in values and not isinstance(value, list):
            assert str(values[key]) == str(value)
    if kind == "train":
        assert values["chosen"] == ("a", "-b")
    if kind == "prepare":
        assert json.loads((folder / "subjects.json").read_text())["subjects"] == REQUESTS[kind]["subjects"]


def test_with_nobody_held_back_nothing_is_validated(job_of):
    asked = arguments(*job_of("train", REQUESTS["train"] | {"validation_subjects": []}))
    assert asked[asked.index("--validation") + 1] == "none"
    assert "--validation" not in arguments(*job_of("train", REQUESTS["train"]))


def test_flags_leave_out_what_was_not_asked_for():
    asked = {"a_b": True, "c": False, "d": None, "e": "", "f": 0, "g": "--x y", "h": 1.5}
    assert flags(asked) == ["--a-b", "--f=0", "--g=--x y", "--h=1.5"]


def test_slices_beyond_the_hip_are_asked_for_with_the_hip_alone(job_of):
    job, folder = job_of("segment", REQUESTS["segment"] | {"hip_slice": None})
    assert not any(part.startswith("--hip") for part in arguments(job, folder))
    assert "--hip-tolerance=40" in arguments(*job_of("segment", REQUESTS["segment"]))


def test_what_a_terminal_would_be_told_hides_nothing_but_the_stream_for_programs(job_of):
    job, folder = job_of("segment", REQUESTS["segment"] | {"scan": "/a b"})
    line = command_line(job, folder)
    assert line.startswith("lls segment '/a b' -o ")
    assert "--json" not in line
    assert "--progress" not in line
