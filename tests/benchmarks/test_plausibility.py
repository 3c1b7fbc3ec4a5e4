import numpy as np
import pytest

from benchmarks import plausibility
from seg_core.errors import MissingPackageError
from seg_core.geometry import LabelMap
from seg_core.report import Check


@pytest.fixture(scope="module")
def two():
    """The smallest and the tallest person, on a coarse grid."""
    return list(plausibility.people(2, pixel_mm=5.0))


def test_true_labels_raise_no_alarm_in_any_view(two):
    looked = set()
    for number, person in enumerate(two):
        for name, labels in plausibility.views(person, np.random.default_rng(number)):
            assert plausibility.false_alarms(labels) == [], name
            looked.add(name)
    assert looked == {"whole", "stretch", "one leg", "hip", "knee", "ankle"}


def test_an_alarm_is_counted(two):
    labels = two[0].labels
    wrong = LabelMap(np.where(labels.array == 2, 1, labels.array), labels.geometry, labels.labels)
    assert "right tibia: length" in {alarm.check for alarm in plausibility.false_alarms(wrong)}


def test_the_table_of_what_people_measure(two):
    figures = {}
    for person in two:
        plausibility.measure(person, figures)
    assert {len(values) for values in figures.values()} == {2, 4}
    femurs = figures["femur: length mm"]
    assert femurs[0] == pytest.approx(289, abs=12)  # 0.2674 of 108 cm
    assert femurs[2] == pytest.approx(508, abs=12)
    rows = plausibility.table(figures).splitlines()
    assert len(rows) == 2 + len(figures)
    assert any(row.startswith("| tibia to femur: length | 0.") for row in rows)


def test_the_command_says_that_there_is_no_alarm(two, tmp_path, capsys, read_json, monkeypatch):
    monkeypatch.setattr(plausibility, "people", lambda count, pixel_mm: two[:count])
    assert plausibility.main(["--people", "1", "--json", str(tmp_path / "f.json")]) == 0
    assert "| whole | 1 | 0 |" in capsys.readouterr().out
    assert read_json(tmp_path / "f.json")["false_alarms"] == {}
    monkeypatch.setattr(plausibility, "false_alarms", lambda labels: [Check("bones", False, "wrong")])
    assert plausibility.main(["--people", "1"]) == 1
    assert "person 0, whole: bones: wrong" in capsys.readouterr().out


def test_an_error_of_ours_is_told(capsys, monkeypatch):
    def people(count, pixel_mm):
        raise MissingPackageError("no shape model")

    monkeypatch.setattr(plausibility, "people", people)
    assert plausibility.main([]) == MissingPackageError.exit_code == 2
    assert capsys.readouterr().err == "error: no shape model\n"
