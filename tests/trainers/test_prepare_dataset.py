import json
import shutil
from concurrent.futures import wait
from dataclasses import replace

import numpy as np
import pytest

from seg_core.errors import OutputError, ScanError, UsageError
from seg_core.geometry import LabelMap, Volume
from seg_core.mesh import surface
from seg_core.model_spec import Grid
from seg_core.moments import label_moments
from seg_core.nifti import read_labels, write_label_table, write_labels
from seg_core.ply import write_ply
from trainers.augment import AUGMENTATIONS
from trainers.cache import SliceCache
from trainers.config import IGNORED, TrainConfig
from trainers.crossval import LeakError, check_apart, check_start, cross_validate
from trainers.dataset import open_dataset
from trainers.dicom_writer import SeriesInfo, write_series
from trainers.loop import Source, train
from trainers.masks import MaskOptions
from trainers.prepare import PrepareConfig, hash_of, prepare
from trainers.slices import check_slices
from trainers.subjects import read_classes, read_subjects

SMALL = PrepareConfig(Grid("size", (64, 64)))


@pytest.fixture(scope="module")
def subject_folders(tmp_path_factory, legs):
    """The made-up legs three times: with surfaces, with masks of the right leg, with a label map."""
    base, (volume, labels) = tmp_path_factory.mktemp("subjects"), legs
    noisy = np.random.default_rng(0).integers(0, 3, volume.array.shape)
    for n, name in enumerate(("meshes", "masks", "map")):
        (base / name).mkdir()
        scan = Volume((volume.array + n * noisy).astype(np.int16), volume.geometry)
        write_series(base / name / "dicom", scan, SeriesInfo("Somebody"))
    (base / "meshes/meshes").mkdir()
    for value, moments in label_moments(labels.array).items():
        write_ply(base / f"meshes/meshes/{labels.labels[value]}.ply", surface(labels, value, moments.box))
    (base / "masks/masks").mkdir()
    for value in (1, 2, 3, 4):
        mask = LabelMap((labels.array == value).astype(np.uint8), labels.geometry, {})
        write_labels(base / f"masks/masks/{labels.labels[value]}.nii.gz", mask)
    write_labels(base / "map/labels.nii.gz", labels)
    write_label_table(base / "map/labels.json", labels.labels)
    return base


@pytest.fixture(autouse=True)
def no_pages(monkeypatch):
    """Drawing has tests of its own, and takes most of the time."""
    monkeypatch.setattr("trainers.prepare.write_page", lambda path, *rest: path.write_bytes(b"page"))


@pytest.fixture
def folders(tmp_path, subject_folders):
    """A copy that may be changed."""
    return shutil.copytree(subject_folders, tmp_path / "subjects")


def inputs(base, *names):
    return read_subjects([base / name for name in names])


def states(prepared):
    return {outcome.name: outcome.status for outcome in prepared.outcomes}


def contents(folder):
    return {f.relative_to(folder): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def test_labels_of_every_kind_become_the_same_masks(tmp_path, subject_folders, legs):
    prepared = prepare(inputs(subject_folders, "meshes", "masks", "map"), tmp_path / "data", SMALL, jobs=2)
    assert states(prepared) == dict.fromkeys(("meshes", "masks", "map"), "made")
    dataset = open_dataset(tmp_path / "data")
    assert dataset == prepared.dataset
    assert dataset.classes == ("tibia", "femur", "fibula", "pelvis")
    truth = legs[1].array
    assert np.array_equal(dataset.mask("map").array, truth)
    assert dataset.mask("map").labels == legs[1].labels
    bones = np.where(truth > 4, truth - 4, truth)
    assert np.array_equal(dataset.class_mask("map").array, bones)
    # Surfaces are smoothed, so they differ in voxels at their border.
    assert 2 * ((dataset.class_mask("meshes").array == bones) & (bones > 0)).sum() > 0.95 * (
        (dataset.class_mask("meshes").array > 0).sum() + (bones > 0).sum()
    )
    right = dataset.mask("masks").array
    assert dataset.subject("masks").side == "right"
    assert np.array_equal(right[(truth > 0) & (truth < 5)], truth[(truth > 0) & (truth < 5)])
    assert (right[truth > 4] == IGNORED).all()
    cache = Source(tmp_path / "data").open()
    assert [s.name for s in cache.index.subjects] == ["meshes", "masks", "map"]
    assert len(cache) == prepared.slices == 120
    assert set(np.unique(cache.batch(np.arange(40, 80))[1])) == {0, 1, 2, 3, 4, IGNORED}


def test_a_second_time_changes_no_byte_and_a_change_makes_that_one_anew(tmp_path, folders):
    data = tmp_path / "data"
    prepare(inputs(folders, "meshes", "map"), data, SMALL)
    before = contents(data)
    moved = shutil.move(folders, tmp_path / "elsewhere")
    assert states(prepare(inputs(moved, "meshes", "map"), data, SMALL)) == {"meshes": "kept", "map": "kept"}
    assert contents(data) == before
    (moved / "meshes/meshes/left_fibula.ply").unlink()
    again = prepare(inputs(moved, "meshes", "map"), data, SMALL)
    assert states(again) == {"meshes": "made", "map": "kept"}
    assert "left_fibula" not in again.dataset.mask("meshes").labels.values()
    (data / "map/mask.nii.gz").unlink()
    assert states(prepare(inputs(moved, "map"), data, SMALL)) == {"map": "made"}
    assert np.array_equal(read_labels(data / "map/mask.nii.gz").array, open_dataset(data).mask("map").array)


def test_other_pixels_leave_the_masks_alone(tmp_path, subject_folders):
    given = inputs(subject_folders, "map")
    prepare(given, tmp_path / "data", SMALL)
    finer = prepare(given, tmp_path / "data", PrepareConfig(Grid("size", (96, 96)), tolerance=0))
    assert states(finer) == {"map": "kept"}
    cache = SliceCache(tmp_path / "data/cache")
    assert cache.index.shape == (96, 96)
    assert len(cache) == finer.slices < 40


def test_one_bad_subject_stops_no_other(tmp_path, folders):
    (folders / "masks/masks/right_tibia.nii.gz").write_bytes(b"no image")
    (folders / "bad").mkdir()
    prepared = prepare(inputs(folders, "masks", "map", "bad"), tmp_path / "data", SMALL, jobs=2)
    assert states(prepared) == {"masks": "failed", "map": "made", "bad": "failed"}
    assert isinstance(prepared.outcomes[0].error, ScanError)
    assert [s.name for s in prepared.dataset.subjects] == ["map"]
    assert prepared.slices == 40
    assert sorted(f.name for f in (tmp_path / "data").iterdir()) == ["cache", "dataset.json", "map"]


def test_a_hip_slice_that_a_scan_has_not_is_that_subjects_fault(tmp_path, folders):
    table = folders / "who.csv"
    for hip in ("900", "20"):
        table.write_text(
            f"subject,scan,labels,hip_slice\nmap,map/dicom,map/labels.nii.gz,\nmasks,masks/dicom,masks/masks,{hip}\n"
        )
        prepared = prepare(read_subjects([table]), tmp_path / "data", SMALL)
        if hip == "900":
            assert states(prepared) == {"map": "made", "masks": "failed"}
            assert "hip slice 900" in str(prepared.outcomes[1].error)
            assert prepared.slices == 40
    assert states(prepared) == {"map": "kept", "masks": "made"}
    table.write_text(table.read_text().replace(",20", ",40"))
    again = prepare(read_subjects([table]), tmp_path / "data", SMALL)
    assert states(again) == {"map": "kept", "masks": "failed"}
    assert again.dataset.subject("masks").hip_slice == 20


def test_where_all_fail_nothing_is_left(tmp_path, folders):
    (folders / "masks/masks/right_tibia.nii.gz").write_bytes(b"no image")
    (folders / "bad").mkdir()
    assert states(prepare(inputs(folders, "masks", "bad"), tmp_path / "data", SMALL)) == {
        "masks": "failed",
        "bad": "failed",
    }
    assert not (tmp_path / "data").exists()


def test_an_interrupted_preparation_goes_on(tmp_path, subject_folders):
    data, given = tmp_path / "data", inputs(subject_folders, "meshes", "map")
    prepare(given, tmp_path / "whole", SMALL)
    told = []

    def interrupt(step, done, total):
        told.append((step, done, total))
        if done == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(given, data, SMALL, progress=interrupt)
    (data / ".map.part").mkdir()
    assert states(prepare(given, data, SMALL)) == {"meshes": "kept", "map": "made"}
    assert contents(data) == contents(tmp_path / "whole")
    assert told[0] == ("subjects", 1, 10)


def test_an_interruption_of_the_first_subjects_leaves_no_folder_that_is_refused(
    tmp_path, subject_folders, monkeypatch
):
    data, given = tmp_path / "data", inputs(subject_folders, "map")

    def interrupted(running):
        wait(running)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trainers.prepare.as_completed", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(given, data, SMALL)
    assert (data / "map/mask.nii.gz").is_file()
    with pytest.raises(UsageError, match="brought to its end"):
        check_slices(data)
    assert states(prepare(given, data, SMALL)) == {"map": "made"}
    check_slices(data)


def test_slices_that_are_not_those_of_the_subjects_are_refused(tmp_path, folders, grey_engine):
    data = tmp_path / "data"
    prepare(inputs(folders, "map"), data, SMALL)

    def interrupt(step, done, total):
        if step == "slices":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(inputs(folders, "meshes", "masks"), data, SMALL, progress=interrupt)
    with pytest.raises(UsageError, match="call lls prepare again"):
        cross_validate(("grey", grey_engine), TrainConfig(), data, tmp_path / "study")
    prepare(inputs(folders, "masks"), data, SMALL)
    check_slices(data)
    (folders / "bad").mkdir()
    failed = prepare(inputs(folders, "bad", "nobody"), data, PrepareConfig(Grid("size", (96, 96))))
    assert set(states(failed).values()) == {"failed"}
    check_slices(data)  # nothing was done
    (folders / "masks/masks/right_tibia.nii.gz").write_bytes(b"no image")
    assert states(prepare(inputs(folders, "masks"), data, PrepareConfig(Grid("size", (96, 96)))))
    assert open_dataset(data).grid.size == Source(data).open().index.shape == (96, 96)
    check_slices(data)


def test_a_label_table_that_cannot_be_read_is_one_subjects_fault(tmp_path, folders):
    (folders / "map/labels.json").write_text('{"LabelMap": {"1": "right_tibia",}}')
    prepared = prepare(inputs(folders, "map", "masks"), tmp_path / "data", SMALL)
    assert states(prepared) == {"map": "failed", "masks": "made"}
    assert isinstance(prepared.outcomes[0].error, ScanError)
    (folders / "map/labels.json").unlink()
    without = prepare(inputs(folders, "map", "masks"), tmp_path / "data", SMALL)
    assert states(without) == {"map": "failed", "masks": "kept"}
    assert "no names of the values in map's labels" in str(without.outcomes[0].error)


def test_background_that_a_table_names_is_no_class(tmp_path, folders, legs):
    names = {0: "background"} | {value: name for value, name in legs[1].labels.items() if value < 5}
    table = {"LabelMap": {str(value): name for value, name in names.items()}}
    (folders / "map/labels.json").write_text(json.dumps(table))
    right = LabelMap(np.where(legs[1].array < 5, legs[1].array, 0), legs[1].geometry, {})
    write_labels(folders / "map/labels.nii.gz", right)
    dataset = prepare(inputs(folders, "map"), tmp_path / "data", SMALL).dataset
    assert dataset.classes == ("tibia", "femur", "fibula", "pelvis")
    assert dataset.subject("map").side == "right"
    assert dataset.subject("map").ignored > 0


def test_structures_of_one_side_beside_others_of_both_are_told(tmp_path, folders, legs):
    left = LabelMap((legs[1].array == 5).astype(np.uint8), legs[1].geometry, {})
    write_labels(folders / "masks/masks/left_tibia.nii.gz", left)
    (made,) = prepare(inputs(folders, "masks"), tmp_path / "data", SMALL).dataset.subjects
    assert made.side == "both"
    told = [note.partition(" is labelled on the right alone")[0] for note in made.odd if "alone" in note]
    assert sorted(told) == ["femur", "fibula", "pelvis"]


def test_who_was_prepared_under_two_names_does_not_choose(tmp_path, folders):
    shutil.copytree(folders / "map", folders / "again")
    data = prepare(inputs(folders, "map", "again", "masks"), tmp_path / "data", SMALL).dataset.folder
    check_apart(Source(data, ("map", "again")), Source(data, ("masks",)))
    with pytest.raises(LeakError, match="again to learn from and to choose by"):
        check_apart(Source(data, ("map", "masks")), Source(data, ("again",)))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ScanError, match=r"gone\.ply cannot be read"):
        hash_of(tmp_path / "gone.ply")


def test_subjects_are_added_with_the_same_classes_only(tmp_path, folders):
    data = tmp_path / "data"
    prepare(inputs(folders, "map"), data, SMALL)
    for bone in ("fibula", "pelvis"):
        (folders / f"masks/masks/right_{bone}.nii.gz").unlink()
    added = prepare(inputs(folders, "masks"), data, SMALL)
    assert [s.name for s in added.dataset.subjects] == ["map", "masks"]
    assert added.dataset.classes == ("tibia", "femur", "fibula", "pelvis")
    assert any("no label of pelvis" in note for note in added.outcomes[0].subject.odd)
    tibia = PrepareConfig(SMALL.grid, classes=read_classes("tibia"))
    with pytest.raises(UsageError, match="classes tibia"):
        prepare(inputs(folders, "masks"), data, tibia)
    both = prepare(inputs(folders, "masks", "map"), data, tibia)
    assert states(both) == {"masks": "made", "map": "made"}
    assert open_dataset(data).classes == ("tibia",)
    assert set(np.unique(open_dataset(data).class_mask("masks").array)) == {0, 1, IGNORED}


def test_a_class_that_earlier_subjects_have_is_known(tmp_path, folders):
    four = PrepareConfig(SMALL.grid, classes=read_classes("tibia,femur,fibula,pelvis"))
    prepare(inputs(folders, "map"), tmp_path / "data", four)
    (folders / "masks/masks/right_fibula.nii.gz").unlink()
    added = prepare(inputs(folders, "masks"), tmp_path / "data", four)
    assert added.dataset.classes == ("tibia", "femur", "fibula", "pelvis")
    assert added.dataset.sided


def test_people_are_known_in_another_dataset_by_their_scans(tmp_path, folders, caplog):
    first = prepare(inputs(folders, "map", "masks"), tmp_path / "first", SMALL).dataset
    (folders / "map").rename(folders / "renamed")
    larger = PrepareConfig(Grid("size", (64, 96)))
    second = SliceCache(prepare(inputs(folders, "renamed"), tmp_path / "second", larger).dataset.cache)
    with pytest.raises(LeakError, match="renamed to learn from and to choose by"):
        check_apart(Source(first.folder), Source(second.folder))
    check_apart(Source(first.folder, ("masks",)), Source(second.folder))
    run = tmp_path / "run"
    run.mkdir()
    (run / "best.ckpt").write_bytes(b"")
    known = {"data": [str(first.cache)] * 2, "subjects": [["map"], ["masks"]]}
    (run / "run.json").write_text(json.dumps(known))
    with pytest.raises(LeakError, match="has seen renamed"):
        check_start(str(run / "best.ckpt"), second)
    (run / "run.json").write_text(json.dumps(known | {"subjects": [["masks"], ["masks"]]}))
    check_start(str(run / "best.ckpt"), second)
    assert not caplog.text
    shutil.rmtree(first.folder)
    check_start(str(run / "best.ckpt"), second)
    assert "is not known" in caplog.text


def test_nothing_in_a_dataset_names_a_patient(tmp_path, subject_folders):
    prepare(inputs(subject_folders, "map"), tmp_path / "data", SMALL)
    record = json.loads((tmp_path / "data/dataset.json").read_text())["subjects"][0]
    assert set(record["scan"]) <= {
        "kind",
        "modality",
        "image_type",
        "plane",
        "echo",
        "type",
        "n_series",
        "ignored_files",
    }
    for file in ("dataset.json", "map/quality.json", "map/mask.json", "cache/index.json"):
        text = (tmp_path / "data" / file).read_text()
        assert "Somebody" not in text
        assert str(subject_folders) not in text


def test_the_other_side_is_cut_away(tmp_path, subject_folders):
    config = PrepareConfig(
        Grid("spacing", spacing_mm=(4.0, 4.0)), masks=MaskOptions(side="left"), other_side="crop"
    )
    prepared = prepare(inputs(subject_folders, "map"), tmp_path / "data", config)
    assert prepared.dataset.subjects[0].shape[0] < 40
    assert prepared.dataset.scan("map").geometry.is_close(prepared.dataset.mask("map").geometry)
    assert set(prepared.dataset.mask("map").labels.values()) == {
        f"left_{b}" for b in prepared.dataset.classes
    }
    with pytest.raises(UsageError, match="cropping"):
        PrepareConfig(other_side="crop")


def test_unsided_labels_of_one_leg_leave_the_other_one_out(tmp_path, folders):
    for file in (folders / "masks/masks").iterdir():
        file.rename(file.with_name(file.name.removeprefix("right_")))
    prepared = prepare(inputs(folders, "masks"), tmp_path / "data", SMALL)
    (subject,) = prepared.dataset.subjects
    assert any("only the right leg seems to be labelled" in note for note in subject.odd)
    assert subject.side == "right"
    assert 0.2 * np.prod(subject.shape) < subject.ignored < 0.5 * np.prod(subject.shape)
    meant = replace(SMALL, masks=MaskOptions(side="both"))
    (subject,) = prepare(inputs(folders, "masks"), tmp_path / "data", meant).dataset.subjects
    assert (subject.side, subject.ignored) == ("both", 0)


def test_a_folder_with_something_else_is_left_alone(tmp_path, subject_folders):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="something else"):
        prepare(inputs(subject_folders, "map"), tmp_path, SMALL)
    with pytest.raises(ScanError, match="no dataset"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("side", ["right", "both"])
def test_a_network_taught_one_leg_finds_both_where_the_other_is_ignored(
    tmp_path, subject_folders, monkeypatch, side
):
    """The network sees grey values alone, so that bone which is taught as background costs it the bone."""
    torch = pytest.importorskip("torch")
    engine = pytest.importorskip("trainers.torch.engine")

    def build(name, classes, channels, weights="random"):
        return torch.nn.Sequential(
            torch.nn.Conv2d(channels, 24, 1), torch.nn.ReLU(), torch.nn.Conv2d(24, classes, 1)
        )

    monkeypatch.setattr(engine, "build_network", build)
    given = inputs(subject_folders, "masks")
    prepare(given, tmp_path / "data", PrepareConfig(SMALL.grid, masks=MaskOptions(side=side)))
    source = Source(tmp_path / "data")
    config = TrainConfig(
        epochs=1, epoch_samples=1200, batch=8, loss="cross_entropy", lr=0.05, channels=1, device="cpu",
        threads=1, augmentation=AUGMENTATIONS["none"],
    )  # fmt: skip
    run = train(engine.TorchEngine, config, (source, source), tmp_path / "run")
    network, _ = engine.load_best(run.best)
    truth = prepare(inputs(subject_folders, "map"), tmp_path / "truth", SMALL).dataset
    images, labels = SliceCache(truth.cache).batch(np.arange(40))
    with torch.inference_mode():
        found = network(torch.from_numpy(images)).argmax(1).numpy()
    left = np.s_[:, :, 34:]  # columns grow to the left
    bone = labels[left] > 0
    right_way = (found[left] == labels[left])[bone].mean()
    assert right_way > 0.9 if side == "right" else right_way < 0.6
