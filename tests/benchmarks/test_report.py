"""The smoke setting of every table, with networks of a few weights; and what the tables are made of."""

import csv
import re
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from benchmarks.report import __main__ as command
from benchmarks.report import populations
from benchmarks.report.published import MEAN, PUBLISHED, Figure
from benchmarks.report.sheet import SMOKE, SYNTHETIC, Sheet
from benchmarks.report.study import SMOKE_PATCH, Plan, Setting, Study, Variant, figures
from benchmarks.report.table2 import TRAINING
from benchmarks.report.table3 import FOURFOLD
from benchmarks.report.table5 import PRETRAINED, _figure, _measured, interleaved, segment
from seg_core.errors import OutputError, UsageError
from seg_core.labels import BONES
from seg_core.metrics import Scores
from seg_core.surface_distance import SurfaceDistances
from trainers.cache import CacheIndex, SliceCacheWriter
from trainers.config import TrainConfig
from trainers.registry import Network
from trainers.torch import engine

ROWS = {
    "1": ["512 x 512", "400 x 400", "256 x 256"],
    "2A": ["pretrained", "random"],
    "2B": ["unet-resnet34", "unet-resnet50", "unet-vgg19", "unet-mobilenetv2"],
    "2C": ["dice", "cross_entropy", "dice_focal"],
    "2D": ["1e-4", "1e-5", "falling"],
    "3": ["nnunet-2d", "nnunet-3d", "unet-resnet34", "unet-baseline", "h-denseunet"],
    "4": ["as it is", "fine-tuned"],
    "5": ["unet-resnet34", "nnunet-2d", "nnunet-3d", "unet-baseline", "h-denseunet"],
}


class TinyNetwork(torch.nn.Module):
    """Two convolutions in the place of a network of the registry, of slices or of patches."""

    def __init__(self, name, classes, channels, weights="random", patch=None):
        super().__init__()
        assert patch == (SMOKE_PATCH if name in ("nnunet-3d", "h-denseunet") else None)
        convolution = torch.nn.Conv3d if patch else torch.nn.Conv2d
        self.encoder = convolution(channels, 2, 3, padding=1)
        self.head = convolution(2, classes, 1)

    def forward(self, x):
        return self.head(self.encoder(x).relu())


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder for all tables, which share their people."""
    return tmp_path_factory.mktemp("report")


@pytest.fixture
def steps(monkeypatch):
    """Make networks tiny and pictures of trainings none; count the steps of each."""
    counted, learn, threads = Counter(), engine.TorchEngine.step, torch.get_num_threads()

    def step(self, *arguments):
        counted[self.config.network] += 1
        return learn(self, *arguments)

    monkeypatch.setattr(engine.TorchEngine, "step", step)
    monkeypatch.setattr(engine, "build_network", TinyNetwork)
    for module in ("log", "scores"):
        monkeypatch.setattr(f"trainers.{module}.can_draw", lambda: False)
    torch.set_num_threads(1)
    yield counted
    torch.set_num_threads(threads)


def tiny_keras(name, classes, channels, weights="random"):
    """Two convolutions of Keras, as `TinyNetwork` has them."""
    from keras import Input, Model, layers

    image = Input((None, None, channels), name="image")
    x = layers.Conv2D(2, 3, padding="same", activation="relu", name="encoder")(image)
    return Model(image, layers.Conv2D(classes, 1, name="decoder_head")(x), name=name)


def smoke(number, work, *options):
    """Make a table; return its Markdown and the rows of its CSV."""
    arguments = [number, "-o", str(work), "--smoke", "--repetitions", "2"]
    assert command.main([*arguments, *options]) == 0
    stem = f"table-{number.lower()}-smoke"
    text = (work / f"{stem}.md").read_text(encoding="utf-8")
    with (work / f"{stem}.csv").open(encoding="utf-8", newline="") as file:
        return text, list(csv.DictReader(file))


@pytest.mark.parametrize("number", ROWS)
def test_every_table_runs_and_runs_once(number, work, steps, read_json):
    text, rows = smoke(number, work)
    assert SMOKE in text
    assert SYNTHETIC in text
    assert {row["kind"] for row in rows} == {"smoke: not to be published"}
    assert list(dict.fromkeys(row["row"] for row in rows if row["ours"])) == ROWS[number]
    assert bool(steps) == (number != "5")
    folds = sorted((work / "smoke" / f"table-{number.lower()}").glob("*/fold-*"))
    assert len(folds) == {"4": 2, "5": 0}.get(number, 2 * len(ROWS[number]))
    for fold in folds:
        (teach, choose), held_out = read_json(fold / "run.json")["subjects"], read_json(fold / "scores.json")
        assert len({*teach, *choose, *held_out}) == len(teach) + len(choose) + len(held_out) == 4
    steps.clear()
    assert smoke(number, work) == (text, rows)
    assert not steps


def test_bones_and_their_mean_stand_beside_the_report(work, steps):
    _, rows = smoke("2A", work)
    assert [row["structure"] for row in rows] == 2 * [*BONES, MEAN]
    assert [float(row["report"]) for row in rows[:5]] == [0.92, 0.93, 0.72, 0.86, 0.86]
    assert all(0 <= float(row["ours"]) <= 1 for row in rows)


def test_what_the_trainer_lacks_is_named(work, steps):
    text, rows = smoke("3", work, "--network", "unet-baseline", "--network", "no-such-network")
    assert "no-such-network: MISSING" in text
    assert "unet-baseline: MISSING" not in text
    found = {(r["row"], r["structure"], r["measure"]): (r["ours"], r["report"]) for r in rows}
    assert found["nnunet-3d", "tibia", "dsc"] == ("", "0.9")
    assert found["nnunet-2d", "pelvis", "volume_error_cm3"][1] == "31.8"


def test_figure_10_has_a_box_a_network_over_people_and_bones(work, steps, monkeypatch):
    drawn = []
    monkeypatch.setattr("benchmarks.report.sheet.draw_boxes", lambda *given: drawn.append(given))
    text, _ = smoke("3", work)
    ((groups, path, _),) = drawn
    assert path == work / "table-3-smoke-figure10.png"
    assert path.name in text
    assert list(groups) == ROWS["3"]
    for name, values in groups.items():
        with (work / "smoke" / "table-3" / name / "scores.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len({row["subject"] for row in rows}) == 4
        for place, bone in enumerate(BONES):  # each bone's people side by side
            expected = [float(row["dsc"]) for row in rows if row["class"] == bone]
            assert sorted(values[4 * place : 4 * place + 4]) == sorted(expected)


def test_figure_10_stands_beside_its_table_alone(tmp_path):
    ours = {("x", "tibia"): {"dsc": Figure(0.5)}}
    sheet = Sheet(PUBLISHED["3"], ("dsc",), ours, (), boxes={"x": [0.4, 0.6]})
    sheet.write(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "table-3.csv",
        "table-3.md",
        "table-3-figure10.png",
    }
    assert "Figure 10: table-3-figure10.png" in (tmp_path / "table-3.md").read_text(encoding="utf-8")
    assert "Figure 10" not in replace(sheet, boxes={}).markdown()
    (tmp_path / "table-3-figure10.png").unlink()
    (tmp_path / "table-3-figure10.png").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        sheet.write(tmp_path)


def test_table_3_has_every_measure_of_every_bone_beside_the_reports(work, steps):
    text, _ = smoke("3", work)
    titles = ["DSC", "in the report", "volume error (cm³)", "in the report", "HD95 (mm)"]
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    assert ["", "", *titles] in lines
    cells = {tuple(line[:2]): line[2:] for line in lines if line[0] in ROWS["3"]}
    assert list(cells) == [(name, bone) for name in ROWS["3"] for bone in (*BONES, MEAN)]
    assert cells["unet-resnet34", "pelvis"][1::2] == ["0.88 ± 0.03", "24.5 ± 3.9"]
    assert all(line[place] != "-" for line in cells.values() for place in (0, 2))  # ours: DSC, volume error
    patches = re.findall(r"^- (\S+): .* of 4 patches of 16 x 32 x 32, batch 2", text, re.MULTILINE)
    assert patches == ["nnunet-3d", "h-denseunet"]


def test_a_table_of_the_other_trainer(work, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow", reason="the package tensorflow is not installed")
    from trainers.keras import engine as keras_engine

    Study("3", Setting(work, smoke=True)).data()  # people whom the other tables have too
    shutil.copytree(work / "smoke", tmp_path / "smoke", ignore=shutil.ignore_patterns("table-*"))
    monkeypatch.setattr(keras_engine, "build_network", tiny_keras)
    for module in ("log", "scores"):
        monkeypatch.setattr(f"trainers.{module}.can_draw", lambda: False)
    options = ("--trainer", "keras", "--network", "unet-resnet34", "--network", "nnunet-3d")
    text, rows = smoke("3", tmp_path, *options)
    assert {row["row"] for row in rows if row["ours"]} == {"unet-resnet34"}
    assert "Ours: trainer keras" in text
    assert "nnunet-3d: MISSING, the trainer keras has no such network" in text
    assert "encoder frozen" in text
    assert (tmp_path / "table-3-smoke-figure10.png").is_file()


def test_a_larger_slice_needs_more_memory(work, steps):
    _, rows = smoke("1", work)
    ratios = {r["row"]: (float(r["ours"]), float(r["report"])) for r in rows if r["measure"] == "data"}
    assert ratios["256 x 256"] == (1, 1)
    assert ratios["512 x 512"] == (pytest.approx(4, rel=1e-3), pytest.approx(60 / 14))


def test_fine_tuning_begins_with_the_other_population(work, steps, read_json):
    smoke("4", work)
    folder = work / "smoke" / "table-4"
    before = read_json(folder / "first" / "run.json")
    assert before["subjects"] == [["first-1", "first-2", "first-3"], ["first-4"]]
    (scores,) = folder.glob("as-it-is-*.json")
    assert set(read_json(scores)) == {f"second-{n}" for n in range(1, 5)}
    for fold in (folder / "fine-tuned").glob("fold-*"):
        run = read_json(fold / "run.json")
        assert run["config"]["init"] == str(folder / "first" / "best.ckpt")
        assert {name.partition("-")[0] for part in run["subjects"] for name in part} == {"second"}


def test_a_first_training_of_another_length_or_another_network_is_refused(work, steps, capsys):
    smoke("4", work)
    arguments, folder = ["4", "-o", str(work), "--smoke"], work / "smoke" / "table-4"
    run = folder / "first" / "run.json"
    text = run.read_text(encoding="utf-8")
    run.write_text(text.replace('"epochs": 1', '"epochs": 7'), encoding="utf-8")
    steps.clear()
    assert command.main(arguments) == 2
    assert "first has 7" in capsys.readouterr().err
    run.write_text(text, encoding="utf-8")
    (folder / "as-it-is-other.json").touch()
    assert command.main(arguments) == 2
    assert "another network" in capsys.readouterr().err
    (folder / "as-it-is-other.json").unlink()
    assert not steps


def test_another_setting_is_refused_in_the_same_folder(work, steps, capsys):
    smoke("2C", work)
    arguments = ["2C", "-o", str(work), "--smoke", "--trainer", "keras"]
    assert command.main(arguments) == 2
    assert "another trainer" in capsys.readouterr().err


def test_another_scan_is_refused_under_the_same_name(work, steps, tmp_path):
    smoke("2C", work)
    person = populations.people("first", 1, smoke=True)[0]
    other = replace(person, config=replace(person.config, stature_cm=100.0))
    with pytest.raises(UsageError, match="another scan"):
        populations.scan(other, work / "smoke" / "scans")


def test_the_full_setting_is_the_reports(tmp_path):
    data = tmp_path / "data"
    with SliceCacheWriter(data, CacheIndex((32, 32), BONES)) as writer:
        for number in range(7):
            nothing = np.zeros((10, 32, 32), np.uint8)
            writer.append(str(number), nothing, nothing, (1.0, 1.0, 1.0))
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "unet-resnet34.pth").touch()
    study = Study("2A", Setting(tmp_path, encoder=str(tmp_path / "weights")))
    assert study.plan == Plan(7, None, "first")
    config = study.config(Variant("x", changes=TRAINING, pretrained=True), data, 5 / 7)
    assert (config.loss, config.batch, config.epochs, config.lr, config.lr_step) == ("dice", 8, 20, 1e-4, 0)
    assert (config.init, config.freeze_encoder) == (str(tmp_path / "weights" / "unet-resnet34.pth"), True)
    assert config.epoch_samples == 100
    assert config.augmentation.unit == "volume"
    fourfold = study.config(Variant("y", "nnunet-2d", FOURFOLD), data, 5 / 7)
    assert (fourfold.epoch_samples, fourfold.batch, fourfold.epochs, fourfold.init) == (200, 12, 40, "random")
    fewer = Study("2A", Setting(tmp_path, subjects=5, folds=3, epochs=4, epoch_samples=16, encoder="random"))
    assert fewer.plan == Plan(5, 3)
    config = fewer.config(Variant("x", changes=TRAINING, pretrained=True), data, 5 / 7)
    assert (config.epochs, config.epoch_samples, config.init) == (4, 16, "random")
    assert not config.freeze_encoder


def test_slices_shrink_alike(tmp_path):
    sizes = [Study("1", Setting(tmp_path, **how)) for how in ({}, {"size": 128}, {"smoke": True})]
    assert [[study.pixels(n) for n in (512, 400, 256)] for study in sizes] == [
        [512, 400, 256],
        [256, 208, 128],
        [256, 208, 128],
    ]
    assert Setting(tmp_path, size=128).options == "-o WORK --size 128"


def test_a_network_may_have_an_epoch_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setitem(engine.NETWORKS, "own", Network("a test's", "torch", {"epoch_samples": 60}))
    assert Study("3", Setting(tmp_path)).config(Variant("x", "own"), tmp_path, 1.0).epoch_samples == 60
    given = Study("3", Setting(tmp_path, epoch_samples=32))
    assert given.config(Variant("x", "own"), tmp_path, 1.0).epoch_samples == 32


def test_pretrained_weights_must_be_there(tmp_path, capsys):
    assert command.main(["2A", "-o", str(tmp_path), "--encoder", "random"]) == 2
    assert "--encoder" in capsys.readouterr().err
    study = Study("2B", Setting(tmp_path, encoder=str(tmp_path)))
    with pytest.raises(UsageError, match="no file unet-vgg19"):
        study.config(Variant("x", "unet-vgg19", pretrained=True), tmp_path, 1.0)
    assert list(tmp_path.iterdir()) == []


def test_two_populations_of_different_people_and_scanners():
    first, second = (populations.people(name, 10) for name in ("first", "second"))
    assert len({person.config.seed for person in (*first, *second)}) == 20
    assert all(122 <= person.config.stature_cm <= 150 for person in first)
    assert {(p.config.size, p.config.pixel_mm, p.config.slice_mm) for p in first} == {(512, 0.9375, 3.0)}
    assert {person.config.slice_mm for person in second} == {1.0}
    assert len({person.config.pixel_mm for person in second}) == 3
    assert all((p.look.size, p.look.pixel_mm) == (p.config.size, p.config.pixel_mm) for p in second)
    assert populations.people("first", 3) == first[:3]


def test_times_are_taken_in_turn():
    order, ticks = [], iter([0, 1, 1, 3, 3, 13, 13, 17, 17, 18, 18, 23])
    jobs = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    assert interleaved(jobs, 3, lambda: next(ticks)) == {"a": [1, 10, 1], "b": [2, 4, 5]}
    assert order == list("ababab")


def test_times_are_taken_over_where_they_were_taken_alike(tmp_path, monkeypatch):
    calls, facts = [], {"processor": "one", "load": 1.0}

    def measured(jobs, repetitions):
        calls.append((list(jobs), repetitions))
        return dict.fromkeys(jobs, [1.0] * repetitions)

    monkeypatch.setattr("benchmarks.report.table5.interleaved", measured)
    monkeypatch.setattr("benchmarks.report.table5.machine", lambda *_: dict(facts))
    cache = SimpleNamespace(batch=lambda slices, around: (slices, slices))
    configs = {"flat": TrainConfig(), "deep": TrainConfig(network="nnunet-3d", patch=(4, 8, 8))}

    def again(device="cpu", **changes):
        calls.clear()
        study = Study("5", Setting(tmp_path, **changes))
        engines = {name: (SimpleNamespace(device=device), config) for name, config in configs.items()}
        _measured(study, engines, cache, 4)
        return list(calls)

    every = ["flat", "deep"]
    assert again() == [(["flat"], 1), (["flat"], 5), (every, 1), (every, 5)]  # the first of each unmeasured
    facts["load"] = 2.0
    assert again() == []
    assert again("cuda")
    assert again("cuda", trainer="keras")
    assert again("cuda", trainer="keras", size=128)
    facts["processor"] = "another"
    assert again("cuda", trainer="keras", size=128)


def test_a_ratio_has_the_spread_of_its_repetitions():
    times = {PRETRAINED: [1.0, 2.0, 3.0], "other": [3.0, 4.0, 8.0], "once": [5.0]}
    ours = {(name, ""): {"scan": _figure(seconds)} for name, seconds in times.items()}
    sheet = Sheet(replace(PUBLISHED["5"], figures={}), ("scan",), ours, (), reference=PRETRAINED)
    text = sheet.markdown()
    assert f"| {PRETRAINED} | 1.00 ± 0.50 |" in text
    assert "| other | 2.00 ± 1.32 |" in text
    assert "| once | 2.50 |" in text


def test_a_cell_says_how_many_have_no_distance():
    numbers = [np.ones(2)] * 6
    nan = np.nan
    scores = [
        Scores(np.array([0.9, dsc]), *numbers, SurfaceDistances(np.array([2.0, mm]), np.array([1.0, mm])))
        for dsc, mm in ((0.8, 3.0), (0.0, nan), (nan, nan))  # found, missed, not there
    ]
    found = figures("x", scores, ("tibia", "fibula"))
    assert [found["x", name]["hd95_mm"].none for name in ("tibia", "fibula", MEAN)] == [0, 1, 1]
    text = Sheet(replace(PUBLISHED["3"], figures={}), ("dsc", "hd95_mm"), found, ()).markdown()
    assert "| x | fibula | 0.40 ± 0.57 | 3.0 (1 none) |" in text
    assert "| x | mean | 0.65 | 2.5 (1 none) |" in text


def test_a_network_of_patches_slides_over_the_scan():
    seen = []

    class Engine:
        def logits(self, images):
            seen.append(images.shape)
            return np.zeros((1, 3, *images.shape[2:]), np.float32)

    config = TrainConfig(network="nnunet-3d", patch=(4, 8, 8))
    segment(Engine(), config, np.zeros((6, 1, 8, 16), np.float32))
    assert seen == 2 * 3 * [(1, 1, 4, 8, 8)]
    with pytest.raises(UsageError, match="without logits"):
        segment(object(), config, np.zeros((6, 1, 8, 16), np.float32))


def test_a_sheet_shows_ratios_spreads_and_gaps():
    published = replace(
        PUBLISHED["5"], figures={("x", ""): {"scan": Figure(20)}, ("y", ""): {"scan": Figure(50)}}
    )
    ours = {("x", ""): {"scan": Figure(4.0), "dsc": Figure(0.5, 0.1)}}
    text = Sheet(published, ("scan", "dsc"), ours, ("how",), reference="x").markdown()
    assert "|  | time a scan, ratio | in the report | DSC |" in text
    assert "| x | 1.00 | 1.00 | 0.50 ± 0.10 |" in text
    assert "| y | - | 2.50 | - |" in text
    assert SMOKE not in text
    assert text.endswith("- how\n")


def test_the_command_is_told_without_places(tmp_path):
    setting = Setting(tmp_path, encoder=str(tmp_path / "weights"), folds=3, networks=("a", "b"))
    assert setting.options == "-o WORK --network a --network b --encoder weights --folds 3"
    assert Setting(tmp_path, smoke=True).options == "-o WORK --smoke"
