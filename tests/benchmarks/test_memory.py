import pytest

from benchmarks.memory import Load, main, make_scan
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
    found = read_json(tmp_path / "m.json")
    assert 0.05 < found["gigabytes"] < 1
    assert found["load"]["slices"] == 40
    assert "40 slices of 64 x 64: peak 0." in capsys.readouterr().out


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


def test_the_scan_is_made_as_asked(tmp_path):
    make_scan(Load(3, 32, 15.0), tmp_path / "scan")
    volume = read_scan(tmp_path / "scan" / "dicom").volume
    assert volume.geometry.shape == (32, 32, 3)
    assert volume.geometry.voxel_sizes == pytest.approx((15.0, 15.0, 1.5))
