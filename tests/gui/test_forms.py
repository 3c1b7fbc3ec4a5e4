"""The forms, built without a browser: what they ask for."""

import asyncio
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("nicegui", reason="the extra gui is not installed")

from nicegui import Client, ui
from nicegui.page import page

from cli.main import run
from gui import parts
from gui.pages import jobs, prepare, segment, train
from gui.pages.prepare import PrepareForm, Subject
from gui.requests import arguments
from seg_core.errors import ScanError
from seg_core.geometry import LabelMap
from seg_core.model_spec import Grid, Normalisation
from seg_core.nifti import write_labels, write_volume
from seg_core.runner import default_model
from seg_core.scan import Inspection
from trainers.dataset import Dataset, open_dataset, write_index
from trainers.masks import MaskOptions
from trainers.model_file import read_model


@pytest.fixture(autouse=True)
def client():
    """A page that forms are built into."""
    with Client(page("/forms")) as found:
        yield found


def texts(client):
    return [element.text for element in client.elements.values() if isinstance(element, ui.label)]


USUAL_MM = {"tibia": 22.2}


def dataset(desk, name, grid, tolerance=50, usual_mm=None):
    folder = desk.store.root / "datasets" / name
    folder.mkdir()
    normalisation = Normalisation("percentile", 1, 99.5)
    write_index(Dataset(folder, ("tibia",), True, grid, normalisation, tolerance, usual_mm=usual_mm or {}))
    return str(folder)


@pytest.mark.parametrize(
    ("grid", "tolerance", "usual_mm", "shown"),
    [
        (Grid("size", (400, 400), multiple=16), 7, {}, (400, None)),
        (Grid("size", (320, 320)), 50, {}, (320, None)),
        (Grid("spacing", spacing_mm=(1.875, 1.875), multiple=64), 50, {}, (0, 1.875)),
        (Grid("spacing", spacing_mm=(0.9375, 0.9375), multiple=64), 50, {}, (0, 0.9375)),
        (Grid("spacing", spacing_mm=(0.9375, 0.9375), multiple=64), 50, USUAL_MM, (0, None)),
        (Grid("spacing", spacing_mm=(1.0, 1.0), multiple=32), 50, USUAL_MM, (0, 1.0)),
    ],
)
def test_a_dataset_that_is_added_to_keeps_its_grid(desk, grid, tolerance, usual_mm, shown):
    path = dataset(desk, "mine", grid, tolerance, usual_mm)
    form = PrepareForm(desk)
    form.dataset.set_value(path)
    assert not any(setting.enabled for setting in (form.size, form.pixel, form.tolerance))
    assert (form.size.value, form.pixel.value) == shown
    form._send()
    (job,) = desk.store.jobs("prepare")
    # With none of them it is prepared as it is; multiple, normalisation and magnification are its own too.
    assert {job.request[name] for name in ("size", "pixel_mm", "like")} == {None}
    assert job.request["tolerance"] == tolerance
    assert job.request["dataset"] == path
    form.dataset.set_value("")
    assert form.size.enabled
    assert (form.size.value, form.pixel.value, form.tolerance.value) == (0, None, 50)


def test_what_is_prepared_as_the_page_proposes_suits_the_network_that_it_proposes(desk, client):
    form = PrepareForm(desk)
    form._send()
    (job,) = desk.store.jobs("prepare")
    assert tuple(job.request[name] for name in ("size", "pixel_mm", "like")) == (None, None, "default")
    unlike = "These data do not suit the bundled network"
    as_proposed = Grid("spacing", spacing_mm=(0.9375, 0.9375), multiple=64)
    usual_mm = read_model(default_model())[0].usual_mm
    training = train.TrainForm(desk, dataset(desk, "fit", as_proposed, usual_mm=usual_mm))
    assert training.begin.value == "default"
    assert unlike not in texts(client)
    other = dataset(desk, "other", Grid())
    training = train.TrainForm(desk, other)  # said before anything is asked for
    assert unlike in texts(client)
    training.begin.set_value("random")
    assert unlike not in texts(client)


def test_a_dataset_that_cannot_be_read_is_not_added_to(desk, monkeypatch):
    folder = desk.store.root / "datasets" / "damaged"
    folder.mkdir()
    (folder / "dataset.json").write_text("{}")
    said = []
    monkeypatch.setattr(parts, "complain", said.append)
    form = PrepareForm(desk)
    form.dataset.set_value(str(folder))
    assert form.dataset.value == ""
    assert len(said) == 1


def test_rows_stay_until_they_are_prepared_and_none_that_was_sent_is_lost(desk):
    form, other = PrepareForm(desk), PrepareForm(desk)
    form.add(Subject("a", "/scan", own={"right_tibia": "/mask"}))
    other.add(Subject("b", "/other", hip_slice=3, by_hand=True))
    assert sorted(subject.name for subject in PrepareForm(desk).subjects) == ["a", "b"]
    form.subjects[0].name = "c"
    form.remember()
    again = PrepareForm(desk)
    assert again.subjects == [form.subjects[0], other.subjects[0]]
    form._send()
    assert [subject.name for subject in PrepareForm(desk).subjects] == ["b"]
    (job,) = desk.store.jobs("prepare")
    assert [row["subject"] for row in job.request["subjects"]] == ["c"]


@pytest.fixture
def submit(client, monkeypatch):
    """Click on the button of a form that checks what it asks for."""

    async def at_once(function, *rest):
        return function(*rest)

    monkeypatch.setattr("nicegui.run.io_bound", at_once)

    async def click(form):
        with client:
            await form.submit()

    return lambda form: asyncio.run(click(form))


def test_the_side_of_a_dataset_that_is_added_to_is_kept(desk):
    path = dataset(desk, "mine", Grid())
    write_index(dataclasses.replace(open_dataset(path), masks=MaskOptions(side="left")))
    form = PrepareForm(desk)
    form.dataset.set_value(path)
    form._send()
    (job,) = desk.store.jobs("prepare")
    assert job.request["labelled_side"] == "left"
    form.dataset.set_value("")
    assert form.side.value == "auto"


def test_a_label_map_without_names_is_prepared_with_a_class_table(desk, tmp_path, legs, submit, monkeypatch):
    write_volume(tmp_path / "scan.nii.gz", legs[0])
    right = np.where(legs[1].array < 5, legs[1].array, 0)
    write_labels(tmp_path / "labels.nii.gz", LabelMap(right, legs[1].geometry, {}))
    (tmp_path / "classes.csv").write_text("value,name\n1,tibia\n2,femur\n3,fibula\n4,pelvis\n")
    (tmp_path / "classes.txt").write_text("value,name\n1,tibia")
    (tmp_path / "broken.json").write_text("{")
    said = []
    monkeypatch.setattr(parts, "complain", lambda error: said.append(error.found))
    form = PrepareForm(desk)
    form.add(Subject("a", str(tmp_path / "scan.nii.gz"), str(tmp_path / "labels.nii.gz")))
    submit(form)
    assert form.subjects[0].problems == [
        "labels.nii.gz gives its values no names: choose a class table in Options"
    ]
    for wrong in ("/etc/hosts", tmp_path / "gone.csv", tmp_path / "classes.txt", tmp_path / "broken.json"):
        form.classes.set_value(str(wrong))
        submit(form)
    kinds = ("lies outside", "is not there", "is no class table", "cannot be read")
    assert [next(kind for kind in kinds if kind in text) for text in said] == list(kinds)
    assert desk.store.jobs() == []
    form.classes.set_value(str(tmp_path / "classes.csv"))
    form.size.set_value(256)
    form.side.set_value("right")
    submit(form)
    (job,) = desk.store.jobs("prepare")
    assert job.request["classes"] == str(tmp_path / "classes.csv")
    folder = desk.store.root / "job"
    folder.mkdir()
    assert run(arguments(job, folder)) == 0
    (subject,) = open_dataset(job.request["dataset"]).subjects
    assert list(subject.labels.values()) == ["right_tibia", "right_femur", "right_fibula", "right_pelvis"]


def test_a_second_click_asks_for_nothing(desk, client, submit, monkeypatch):
    monkeypatch.setattr(prepare, "check_subject", lambda *asked: [])
    form = PrepareForm(desk)
    form.add(Subject("a", "/scan", "/labels"))
    submit(form)
    assert form.start.is_ignoring_events
    path = dataset(desk, "mine", Grid())
    monkeypatch.setattr(train, "dataset_subjects", lambda folder: ["a", "b"])
    training = train.TrainForm(desk, path)
    training.submit()
    assert training.start.is_ignoring_events
    assert [job.kind for job in desk.store.jobs()] == ["train", "prepare"]
    for _ in range(2):
        jobs.training._export(desk, desk.store.jobs("train")[0])
    assert [job.title for job in desk.store.jobs("export")] == ["network"]


def test_what_was_painted_on_one_series_is_taught_with_it(desk, tmp_path):
    job = desk.store.add("segment", "leg", {"scan": "/dicom", "name": "leg", "series": "1.2.3"})
    result = SimpleNamespace(desk=desk, job=job, name="leg")
    jobs.SegmentResult._teach(result, tmp_path / "corrected.nii.gz")
    (subject,) = PrepareForm(desk).subjects
    assert subject.as_row() == {
        "subject": f"leg-{job.id}", "scan": "/dicom", "series": "1.2.3",
        "labels": str(tmp_path / "corrected.nii.gz"),
    }  # fmt: skip


def test_a_network_that_is_not_there_is_said(desk, client):
    (desk.store.root / "models" / "mine.onnx").write_bytes(b"x")
    mine = str(desk.store.root / "models" / "mine.onnx")
    assert segment.SegmentForm(desk, mine).model == mine
    assert segment.SegmentForm(desk, "").model == "default"
    assert "That network is no longer there" not in texts(client)
    assert segment.SegmentForm(desk, mine.replace("mine", "gone")).model == "default"
    assert "That network is no longer there" in texts(client)


ENTRIES = [
    {"number": 1, "uid": "1.2", "description": "water", "orientation": "LPS", "shape": [4, 4, 30]},
    {"number": 2, "uid": "1.3", "description": "", "orientation": "LSP", "shape": [4, 20, 4], "volumes": 2},
    {"number": 3, "uid": "1.4", "description": "first echo", "problem": "a gap", "shape": [4, 4, 9]},
    {"number": 4, "uid": "1.4", "description": "second echo", "orientation": "LPS", "shape": [4, 4, 9]},
]


def test_a_series_is_asked_for_by_its_uid_and_the_hip_slice_is_one_of_its(desk):
    form = segment.SegmentForm(desk, "")
    with form.found:
        form._show(Inspection("dicom", tuple(ENTRIES), 1, "", None, 0), {}, {})
    choices = [e for e in form.found.descendants() if e.props.get("role") == "radio"]
    assert form._series() == "1.2"
    assert form.hip.label == "Slice where the hip begins (0 to 29)"
    seen = []
    for choice in choices[1:]:
        (click,) = choice._event_listeners.values()
        click.handler()
        seen.append((form._series(), form.hip.label.removeprefix("Slice where the hip begins")))
    assert seen == [("1.3:1", " (0 to 19)"), ("3", ""), ("4", " (0 to 8)")]


def test_the_wish_for_a_series_goes_where_one_is_chosen(desk):
    entries = tuple({"number": n, "uid": f"1.{n}", "description": "t1"} for n in (1, 2))
    form = segment.SegmentForm(desk, "")
    with form.found:
        form._show(Inspection("dicom", entries, None, "two fit", ScanError("two fit"), 0), {}, {})
    assert form.problem.visible
    choice = next(e for e in form.found.descendants() if e.props.get("role") == "radio")
    (click,) = choice._event_listeners.values()
    click.handler()
    assert not form.problem.visible


def test_of_a_preparation_that_was_cut_short_finished_subjects_are_kept(desk, client):
    job = desk.store.add("prepare", "legs", {"subjects": [], "dataset": dataset(desk, "legs", Grid())})
    jobs._failed(desk, dataclasses.replace(job, state="cut short"))
    assert "This was cut short; finished subjects are kept" in texts(client)


def test_what_is_no_utf_8_is_shown_all_the_same(client):
    odd = "J\udce9r\udcf4me"
    parts.text(odd)
    parts.chip(odd)
    parts.banner("bad", "One", [odd])
    parts.banner("bad", "Two", [odd, odd])
    assert texts(client).count("J\ufffdr\ufffdme") == 5
