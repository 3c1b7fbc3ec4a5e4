import pytest

from benchmarks import memory
from benchmarks.memory import Load, Peak, load_of, main, make_scan
from seg_core.scan import read_scan
from trainers.dicom_writer import SeriesInfo, write_series


@pytest.fixture
def scan(legs, tmp_path):
    """The made-up legs where the benchmark keeps its scan."""
    volume = legs[0]
    array = volume.array.astype("int16")
    write_series(tmp_path / "scan" / "dicom", type(volume)(array, volume.geometry), SeriesInfo("legs"))
    return tmp_path / "scan"


def call(scan, model, folder, *flags):
    sizes = ["--slices", "40", "--size", "64"]
    return main(
        ["--model", str(model), "--scan", str(scan), "--json", str(folder / "m.json"), *sizes, *flags]
    )


def test_the_peak_of_a_short_scan(scan, tiny_model, tmp_path, capsys, read_json):
    assert call(scan, tiny_model, tmp_path) == 0
    figures = read_json(tmp_path / "m.json")
    (found,) = figures["scans"]
    assert 0.05 < found["gigabytes"] < 1
    assert found["load"]["slices"] == 40
    assert figures["lines"] == {}
    assert "40 slices of 64 x 64: peak 0." in capsys.readouterr().out


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """Stand-ins that make scans of empty files, and take 0.5 GB and 3 s and so much more a slice."""
    made = []

    def make(load, folder):
        made.append((folder, load))
        (folder / "dicom").mkdir(parents=True)
        for n in range(load.slices):
            (folder / "dicom" / str(n)).touch()

    def peak(scan, model, out, precision):
        slices = sum(1 for _ in scan.iterdir())
        return Peak(0.5 + slices / 100, 3 + 0.5 * slices + (0.5 if slices == 30 else 0))

    monkeypatch.setattr(memory, "make_scan", make)
    monkeypatch.setattr(memory, "measure", peak)
    return made


def test_several_lengths_lie_on_lines_or_it_is_told_how_far_off(measured, tmp_path, capsys, read_json):
    lengths = ["--slices", "30", "10", "20"]
    files = ["--json", str(tmp_path / "m.json"), "--picture", str(tmp_path / "m.png")]
    assert main([*lengths, *files, "--scan", str(tmp_path / "scans")]) == 0
    assert [(folder.name, load.slices) for folder, load in measured] == [("10", 10), ("20", 20), ("30", 30)]
    assert {round(load.slices * load.slice_mm, 6) for _, load in measured} == {1522.5}  # the same body
    figures = read_json(tmp_path / "m.json")
    assert [scan["load"]["slices"] for scan in figures["scans"]] == [10, 20, 30]
    assert figures["lines"]["gigabytes"] == pytest.approx({"start": 0.5, "slope": 0.01, "worst": 0})
    # of 8, 13 and 18.5 s; at 20 slices the line is a sixth of a second higher
    line = {"start": 8 / 3, "slope": 0.525, "worst": (1 / 6) / (13 + 1 / 6)}
    assert figures["lines"]["cpu_seconds"] == pytest.approx(line)
    printed = capsys.readouterr().out
    assert "| 20 | 0.700 | 13.0 |" in printed
    assert "GB: 0.5 + 0.01 a slice; a scan is at most 0.0% off" in printed
    assert "s: 2.67 + 0.525 a slice; a scan is at most 1.3% off" in printed
    assert (tmp_path / "m.png").read_bytes().startswith(b"\x89PNG")
    assert main([*lengths, "--scan", str(tmp_path / "scans"), "--limit", "0.79"]) == 1
    assert len(measured) == 3  # the kept ones were taken


def test_two_lengths_make_no_line(measured, capsys):
    assert main(["--slices", "10", "20"]) == 0
    printed = capsys.readouterr().out
    assert "| 20 | 0.700 | 13.0 |" in printed
    assert "a slice" not in printed


def test_more_than_the_limit_fails(scan, tiny_model, tmp_path):
    assert call(scan, tiny_model, tmp_path, "--limit", "0.01") == 1


def test_another_scan_or_a_failure_gives_no_figure(scan, tiny_model, tmp_path):
    with pytest.raises(SystemExit):
        call(scan, tiny_model, tmp_path, "--slices", "41")
    with pytest.raises(RuntimeError, match="ended with 5"):
        call(scan, tmp_path / "none.onnx", tmp_path)
    assert not (tmp_path / "m.json").exists()


def test_the_load_is_the_longest_scan():
    assert (Load().slices, Load().size, Load().slice_mm) == (1015, 512, 1.5)
    assert load_of(1015) == Load()


def test_the_scan_is_made_as_asked(tmp_path):
    make_scan(Load(3, 32, 15.0), tmp_path / "scan")
    volume = read_scan(tmp_path / "scan" / "dicom").volume
    assert volume.geometry.shape == (32, 32, 3)
    assert volume.geometry.voxel_sizes == pytest.approx((15.0, 15.0, 1.5))
