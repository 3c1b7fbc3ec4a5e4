import csv
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seg_core.errors import ModelError, UsageError
from seg_core.geometry import Geometry, LabelMap
from seg_core.metrics import Scores, evaluate
from seg_core.surface_distance import SurfaceDistances
from trainers import registry
from trainers.augment import NONE
from trainers.cache import CacheIndex, SliceCache, SliceCacheWriter
from trainers.config import IGNORED, TrainConfig
from trainers.crossval import (
    Fold,
    LeakError,
    check_apart,
    check_start,
    check_subjects,
    cross_validate,
    plan_folds,
)
from trainers.loop import Source, train
from trainers.scores import score_subject, scores_from_json, scores_to_json, table, write_results
from trainers.start import own_settings

CLASSES = ("tibia", "femur")
CONFIG = TrainConfig(
    network="grey", epochs=2, epoch_samples=16, batch=8, validation_samples=8, augmentation=NONE
)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No curves of the folds' trainings; `test_log` draws some."""
    monkeypatch.setattr("trainers.log.can_draw", lambda: False)


@pytest.fixture
def data(tmp_path, make_cache):
    return make_cache(tmp_path / "data", subjects=4, slices=8)


def add(folder, name, images, labels):
    with SliceCacheWriter(folder, CacheIndex(SliceCache(folder).index.shape, CLASSES)) as writer:
        writer.append(name, images, labels, (1.0, 1.0, 3.0))


@settings(deadline=None, max_examples=50)
@given(count=st.integers(3, 12), folds=st.none() | st.integers(2, 12))
def test_everyone_is_held_out_once_and_never_seen_before(count, folds):
    names = [f"s{n}" for n in range(count)]
    try:
        plan = plan_folds(names, folds)
    except UsageError:
        assert folds is not None
        assert folds > count or count - -(-count // folds) < 2
        return
    assert sorted(name for fold in plan for name in fold.held_out) == sorted(names)
    assert len(plan) == (folds or count)
    for fold in plan:
        parts = [set(fold.held_out), set(fold.validation), set(fold.train)]
        assert set.union(*parts) == set(names)
        assert sum(map(len, parts)) == count
        assert len(fold.validation) == 1


def test_too_few_subjects_and_impossible_folds():
    for names, folds in ((["a"], None), (["a", "b"], None), (["a", "b", "c"], 4), (["a", "b", "c"], 1)):
        with pytest.raises(UsageError, match="three subjects"):
            plan_folds(names, folds)
    with pytest.raises(LeakError, match="b twice"):
        Fold(1, 1, ("a", "b"), ("b",), ("c",))


def test_held_out_slices_are_in_neither_training_nor_choice(data, tmp_path, grey_engine):
    cache = SliceCache(data)
    owner = {
        cache.batch(np.array([n]))[0].tobytes(): subject.name
        for subject in cache.index.subjects
        for n in range(subject.start, subject.stop)
    }
    engines = []

    class Spy(grey_engine):
        def __init__(self, config, classes):
            super().__init__(config, classes)
            self.taught, self.seen = set(), set()
            engines.append(self)

        def step(self, images, labels, lr):
            self.taught |= {owner[image.tobytes()] for image in images}
            return super().step(images, labels, lr)

        def evaluate(self, images, labels):
            self.seen |= {owner[image.tobytes()] for image in images}
            return super().evaluate(images, labels)

    scores = cross_validate(("grey", Spy), CONFIG, data, tmp_path / "out")
    names = [subject.name for subject in cache.index.subjects]
    assert list(scores) == names
    assert len(engines) == 8
    for fold, learner, judge in zip(plan_folds(names), engines[::2], engines[1::2], strict=True):
        assert learner.taught == set(fold.train)
        assert learner.seen - learner.taught == set(fold.validation)
        assert judge.taught == set()
        assert judge.seen == set(fold.held_out)


def test_what_is_written(data, tmp_path, grey_engine):
    out = tmp_path / "out"
    scores = cross_validate(("grey", grey_engine), CONFIG, data, out, folds=2)
    assert {p.name for p in (out / "fold-1").iterdir()} >= {
        "best.ckpt",
        "last.ckpt",
        "log.csv",
        "scores.json",
    }
    with (out / "scores.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["subject"], row["class"]) for row in rows] == [(s, c) for s in scores for c in CLASSES]
    assert min(float(row["dsc"]) for row in rows) > 0.9
    with (out / "table3.csv").open(newline="") as file:
        tibia, femur, mean = csv.DictReader(file)
    dsc = np.array([score.dsc for score in scores.values()])
    assert float(tibia["dsc_mean"]) == pytest.approx(dsc[:, 0].mean())
    assert float(femur["dsc_sd"]) == pytest.approx(dsc[:, 1].std(ddof=1))
    assert float(mean["dsc_mean"]) == pytest.approx(dsc.mean())
    text = (out / "table3.md").read_text(encoding="utf-8")
    assert f"| tibia | {dsc[:, 0].mean():.2f} ± {dsc[:, 0].std(ddof=1):.2f} |" in text
    with Image.open(out / "figure10.png") as picture:
        assert picture.width == 440  # two boxes


def test_figure_10_has_a_box_a_class_over_subjects(tmp_path, monkeypatch):
    def score(*dsc):
        return Scores(np.array(dsc), *[np.ones(2)] * 6, SurfaceDistances(np.ones(2), np.ones(2)))

    drawn = []
    monkeypatch.setattr("trainers.scores.draw_boxes", lambda *given: drawn.append(given))
    write_results(tmp_path, "title", CLASSES, {"a": score(0.9, 0.5), "b": score(0.8, 0.4)})
    assert drawn == [({"tibia": [0.9, 0.8], "femur": [0.5, 0.4]}, tmp_path / "figure10.png", "title")]


def test_scores_are_those_of_the_core_without_what_nobody_labelled(tmp_path, make_slices, grey_engine):
    images, labels = make_slices(11, 3)
    labels[:, :16] = IGNORED
    with SliceCacheWriter(tmp_path / "c", CacheIndex((32, 64), CLASSES)) as writer:
        writer.append("first", *make_slices(3, 4), (1.0, 1.0, 1.0))
        writer.append("partial", images, labels, (1.0, 2.0, 3.0))
    cache = SliceCache(tmp_path / "c")
    engine = grey_engine(CONFIG, CLASSES)
    engine.step(images[:, None], labels, 0.1)
    scores = score_subject(engine, cache, "partial", CONFIG)
    predicted = engine.evaluate(cache.batch(np.arange(3, 14))[0], labels)[1]
    expected = evaluate(predicted[:, 16:], labels[:, 16:], 2, 6.0)
    np.testing.assert_array_equal(scores.dsc, expected.dsc)
    np.testing.assert_allclose(scores.true_cm3, expected.true_cm3)
    assert scores.true_voxels.sum() > 0
    assert np.isfinite(scores.surface.hd95_mm).all()


def test_a_planted_leak_is_refused(data, tmp_path, make_slices, grey_engine):
    stored = SliceCache(data).batch(np.array([3]))[0][:, 0]
    images, labels = make_slices(6, 77)
    images[4] = stored[0]
    add(data, "stranger", images, labels)
    with pytest.raises(LeakError, match="0-0 and stranger share 1 slice"):
        cross_validate(("grey", grey_engine), CONFIG, data, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_start_of_which_nothing_is_known_is_told_of(data, tmp_path, caplog):
    (tmp_path / "moved.ckpt").write_bytes(b"weights")
    check_start(str(tmp_path / "moved.ckpt"), SliceCache(data))
    assert "moved.ckpt has seen is not known" in caplog.text
    caplog.clear()
    check_start("random", SliceCache(data))
    assert not caplog.text


def test_a_start_that_has_seen_the_subjects_is_refused(data, tmp_path, make_cache, grey_engine):
    sources = (Source(data, ("0-0", "0-1")), Source(data, ("0-2",)))
    seen = train(grey_engine, CONFIG, sources, tmp_path / "run").best
    with pytest.raises(LeakError, match="has seen 0-0, 0-1, 0-2"):
        cross_validate(("grey", grey_engine), replace(CONFIG, init=str(seen)), data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    elsewhere = make_cache(tmp_path / "elsewhere", seed=9)
    other = train(grey_engine, CONFIG, (elsewhere, elsewhere), tmp_path / "other").best
    assert cross_validate(("grey", grey_engine), replace(CONFIG, init=str(other)), data, tmp_path / "out")
    (tmp_path / "run" / "run.json").write_text("no JSON")
    with pytest.raises(ModelError, match=r"run\.json"):
        cross_validate(("grey", grey_engine), replace(CONFIG, init=str(seen)), data, tmp_path / "no")


def test_a_start_whose_own_start_has_seen_the_subjects_is_refused(data, tmp_path, make_cache, grey_engine):
    sources = (Source(data, ("0-0", "0-1")), Source(data, ("0-2",)))
    seen = train(grey_engine, CONFIG, sources, tmp_path / "run").best
    elsewhere, begun = make_cache(tmp_path / "elsewhere", seed=9), replace(CONFIG, init=str(seen))
    for epochs in (2, 3):
        last = train(grey_engine, replace(begun, epochs=epochs), (elsewhere, elsewhere), tmp_path / "further")
        with pytest.raises(LeakError, match="has seen 0-0, 0-1, 0-2"):
            check_start(str(last.best), SliceCache(data))
        (tmp_path / "run" / "run.json").unlink(missing_ok=True)  # it still knows, when it goes on


def test_who_teaches_does_not_choose(data, make_cache, tmp_path):
    check_apart(Source(data, ("0-0", "0-1")), Source(data, ("0-2",)))
    check_apart(Source(data), Source(make_cache(tmp_path / "elsewhere", seed=9)))
    with pytest.raises(LeakError, match="0-1 to learn from and to choose by"):
        check_apart(Source(data, ("0-0", "0-1")), Source(data, ("0-1", "0-2")))


def test_a_training_keeps_the_channels_of_the_checkpoint_that_it_begins_with(data, tmp_path, grey_engine):
    config = replace(CONFIG, channel_fill="neighbours", neighbour_mm=3.0)
    best = train(grey_engine, config, (data, data), tmp_path / "run").best
    own = own_settings(str(best))
    assert (own["network"], own["channel_fill"], own["neighbour_mm"]) == ("grey", "neighbours", 3.0)
    assert own_settings("random") == {}
    (tmp_path / "run" / "run.json").unlink()
    assert own_settings(str(best)) == {}


def test_air_may_be_shared(data, make_slices):
    for name in ("a", "b"):
        images, labels = make_slices(4, ord(name))
        images[0], labels[0] = 0.05, 0
        add(data, name, images, labels)
    before = check_subjects(SliceCache(data))
    assert before == check_subjects(SliceCache(data))
    add(data, "c", *make_slices(4, 5))
    assert before != check_subjects(SliceCache(data))


def test_a_dataset_without_labels(data, tmp_path, make_slices, grey_engine):
    images, labels = make_slices(4, 9)
    add(data, "bare", images, np.where(labels > 0, IGNORED, 0).astype(np.uint8))
    with pytest.raises(UsageError, match="no label in any slice of bare"):
        cross_validate(("grey", grey_engine), CONFIG, data, tmp_path / "out")


class Killed(BaseException):
    pass


def test_a_killed_one_goes_on_and_done_folds_are_kept(data, tmp_path, grey_engine):
    whole = cross_validate(("grey", grey_engine), CONFIG, data, tmp_path / "whole")
    steps = []

    class Mortal(grey_engine):
        def step(self, images, labels, lr):
            steps.append(lr)
            if len(steps) == 7:  # the second epoch of the second fold
                raise Killed
            return super().step(images, labels, lr)

    with pytest.raises(Killed):
        cross_validate(("grey", Mortal), CONFIG, data, tmp_path / "cut")
    assert not (tmp_path / "cut" / "table3.csv").exists()
    done = (tmp_path / "cut" / "fold-1" / "log.csv").stat().st_mtime_ns
    cut = cross_validate(("grey", Mortal), CONFIG, data, tmp_path / "cut")
    assert len(steps) == 7 + 4 * 4 - 6
    assert (tmp_path / "cut" / "fold-1" / "log.csv").stat().st_mtime_ns == done
    assert scores_to_json(cut) == scores_to_json(whole)


def test_another_plan_is_refused_and_a_damaged_one_named(data, tmp_path, grey_engine, make_slices):
    out = tmp_path / "out"
    cross_validate(("grey", grey_engine), CONFIG, data, out, folds=2)
    cross_validate(("grey", grey_engine), replace(CONFIG, threads=1), data, out, folds=2)
    for changes, folds in (({"lr": 0.5}, 2), ({}, 4)):
        with pytest.raises(UsageError, match="lr" if changes else "folds"):
            cross_validate(("grey", grey_engine), replace(CONFIG, **changes), data, out, folds)
    (out / "fold-2" / "scores.json").write_text("[]")
    with pytest.raises(ModelError, match="fold-2"):
        cross_validate(("grey", grey_engine), CONFIG, data, out, folds=2)
    add(data, "late", *make_slices(4, 5))
    with pytest.raises(UsageError, match="data"):
        cross_validate(("grey", grey_engine), CONFIG, data, out, folds=2)


def test_scores_survive_their_file_and_gaps_are_left_out():
    full = np.repeat(np.array([1, 2], np.uint8), 32).reshape(4, 4, 4)
    one = np.where(full == 1, full, 0).astype(np.uint8)
    maps = [LabelMap(array, Geometry(array.shape, np.eye(4)), {1: "a", 2: "b"}) for array in (full, one)]
    scores = {"x": evaluate(maps[1], maps[1], surface=True), "y": evaluate(maps[0], maps[0], surface=True)}
    scores["z"] = evaluate(maps[1], maps[0], surface=True)
    again = scores_from_json(scores_to_json(scores))
    assert scores_to_json(again) == scores_to_json(scores)
    assert np.isnan(again["x"].dsc[1])
    rows = table(("a", "b", "none")[:2], list(again.values()))
    assert [row["subjects"] for row in rows] == [3, 2, 3]
    assert rows[1]["dsc_mean"] == 0.5
    assert rows[1]["hd95_mm_sd"] is None
    assert rows[2]["dsc_mean"] == 0.75


@pytest.fixture
def lls(capsys, monkeypatch, grey_engine):
    """Run `lls` with a trainer `grey`."""
    from cli.main import run

    trainer = SimpleNamespace(NETWORKS={"grey": registry.Network("a test's", "dev")}, make_engine=grey_engine)
    known = registry.get_trainer
    monkeypatch.setattr(registry, "get_trainer", lambda n: trainer if n == "grey" else known(n))

    def call(*arguments):
        code = run([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


SMALL = ("--network", "grey", "--epochs", 1, "--epoch-samples", 8, "--batch", 8, "--augmentation", "none")


def test_the_command(lls, data, tmp_path, make_cache):
    arguments = ("crossval", data, "-o", tmp_path / "out", "--trainer", "grey", *SMALL)
    code, out, err = lls(*arguments, "--folds", 2)
    assert code == 0
    assert "tibia" in out
    assert "table3.md" in out
    found = json.loads(lls(*arguments, "--folds", 2, "--json", "-q")[1])
    assert found[0]["class"] == "tibia"
    assert found[0]["dsc_mean"] > 0.9
    assert lls(*arguments, "--folds", 3)[0] == 2
    alone = make_cache(tmp_path / "alone", subjects=1)
    code, _, err = lls("crossval", alone, "-o", tmp_path / "no", "--trainer", "grey", *SMALL)
    assert code == 2
    assert "1 subject" in err
    assert not (tmp_path / "no").exists()
    assert lls("crossval", tmp_path, "-o", tmp_path / "no", "--trainer", "grey", *SMALL)[0] == 5
    assert lls("crossval", data, "-o", tmp_path / "no", "--trainer", "gray", *SMALL)[0] == 2
    assert lls("crossval", data, "-o", tmp_path / "no", "--trainer", "grey", *SMALL, "--network", "x")[0] == 2
    assert lls("crossval", data, "-o", tmp_path / "no", "--trainer", "grey", *SMALL, "--loss", "x")[0] == 2


def test_train_chooses_by_subjects_of_the_same_dataset(lls, data, tmp_path, read_json):
    arguments = ("train", data, "--trainer", "grey", *SMALL)
    code, out, _ = lls(*arguments, "--validation-subject", "0-2", "-o", tmp_path / "run")
    assert code == 0
    assert "DSC" in out
    assert read_json(tmp_path / "run" / "run.json")["subjects"] == [["0-0", "0-1", "0-3"], ["0-2"]]
    config = read_json(tmp_path / "run" / "run.json")["config"]
    assert config["augmentation"]["rotation"] == 0
    assert lls(*arguments, "--validation-subject", "nobody", "-o", tmp_path / "no")[0] == 2
    assert lls(*arguments, "-o", tmp_path / "no")[0] == 2
    assert lls(*arguments, "--validation", data, "-o", tmp_path / "no", "--augment-by", "x")[0] == 2
