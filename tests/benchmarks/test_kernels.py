import json
import re
import tomllib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from benchmarks.kernels import dicom, mesh, space
from benchmarks.kernels.__main__ import PACKAGES, ROWS, main
from benchmarks.kernels.row import Figures, Goal, Peers, Row, measure, one_core
from benchmarks.timing import Timings

pytestmark = pytest.mark.filterwarnings("ignore")  # those of the peers

MODULES = {
    "MONAI": "monai",
    "OpenCV": "cv2",
    "OpenCV contours": "cv2",
    "OpenCV sepFilter2D": "cv2",
    "dicom2nifti": "dicom2nifti",
    "fill_voids": "fill_voids",
    "medpy": "medpy",
    "scikit-learn": "sklearn",
    "surface-distance": "surface_distance",
    "zmesh": "zmesh",
}
"""Peers of the extra bench, the only ones that may be missing."""


@pytest.mark.parametrize("name", ROWS)
def test_a_row_runs_and_its_answers_are_equal(name, tmp_path, capsys):
    assert main([name, "--small", "--rounds", "1", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    printed = capsys.readouterr().out
    assert figures["rows"]
    missing = {peer for row in figures["rows"] for peer in row["missing"]}
    assert {peer for peer in missing if find_spec(MODULES[peer])} == set()
    for row in figures["rows"]:
        assert row["agreed"] in printed
        assert row["share"][1] > 0
        assert f"| {row['name']} |" in printed
    assert figures["machine"]["cores"] >= 1
    if missing:
        pytest.skip(f"not compared with {', '.join(sorted(missing))}: the extra bench is not installed")


def test_a_row_that_is_not_there():
    with pytest.raises(SystemExit):
        main(["nothing"])


def test_a_row_without_any_peer_is_not_measured(monkeypatch, capsys):
    def gone():
        raise ImportError

    monkeypatch.setattr("benchmarks.kernels.denoise.PIECES", {"one": gone, "another": gone})
    monkeypatch.setattr("benchmarks.kernels.denoise.HOLES", {"one": gone})
    assert main(["denoise", "--small", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "### denoise pieces: not measured, without one, another" in printed
    assert "### denoise holes: not measured, without one" in printed


def row(ours=lambda: 1, peer=lambda: 1):
    def agree(answers):
        assert len(set(answers.values())) == 1, answers
        return "All equal."

    peers = Peers()
    peers.add("peer", lambda: peer)
    peers.add("missing", lambda: __import__("no_such_package"))
    return Row("row", "nothing", ours, Goal(0.5), peers, agree)


def test_another_answer_is_no_figure():
    with pytest.raises(AssertionError, match="peer"):
        measure(row(peer=lambda: 2), 1)


def test_a_missing_peer_is_named():
    figures = measure(row(), 1)
    assert isinstance(figures, Figures)
    assert figures.as_json()["missing"] == ["missing"]
    assert "| missing | not installed | |" in figures.as_markdown()


def test_what_is_slow_is_said_to_be_measured_once():
    figures = replace(
        measure(row(), 1),
        timings=Timings({"ours": np.array([1.0, 1.0, 2.0]), "peer": np.array([5.0])}),
    )
    assert "| peer | 5e+03 | 5 (once) |" in figures.as_markdown()


def test_versions_of_all_peers_are_kept():
    text = (Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    bench = tomllib.loads(text)["project"]["optional-dependencies"]["bench"]
    names = {re.split(r"[\[>=]", requirement)[0].replace("-", "_") for requirement in bench} - {"lls"}
    known = {name.replace("-", "_") for name in PACKAGES}
    assert names | {"torch", "dcm2niix", "imagecodecs"} <= known


def test_threads_come_back_after_a_failure():
    torch = pytest.importorskip("torch", reason="the extra torch is not installed")

    def fail():
        raise RuntimeError(f"{torch.get_num_threads()} thread")

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(RuntimeError, match="1 thread"), one_core():
            fail()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def without_peers(row):
    return replace(row, peers=Peers())


def test_slices_in_the_wrong_order_are_no_volume(monkeypatch):
    plain = without_peers(next(dicom.rows(True)))
    assert "in order" in measure(plain, 1).agreed
    right = plain.ours()
    for wrong in (right[::-1], np.roll(right, 1, axis=0)):
        with pytest.raises(AssertionError, match="ours"):
            plain.agree({"ours": wrong})
    with pytest.raises(AssertionError, match="a peer"):
        plain.agree({"ours": right, "a peer": np.roll(right, 1, axis=0)})
    assert plain.agree({"ours": right, "a peer": right[::-1]})  # from the other end


def test_surfaces_without_polygons_are_none():
    pytest.importorskip("vtkmodules", reason="VTK is not installed")
    from vtkmodules.vtkCommonDataModel import vtkPolyData

    meshes = next(row for row in mesh.rows(True) if row.name == "mesh")
    ours = meshes.ours()
    nets = meshes.peers.actions[mesh.NETS]()
    assert meshes.agree({"ours": ours, mesh.NETS: nets, "another": ours})
    for name, answer in (
        (mesh.NETS, [vtkPolyData()]),
        ("VTK FlyingEdges, cropped", [vtkPolyData()] * 8),
        ("another", ours[:7]),
        ("another", [([], [])] * 8),
    ):
        with pytest.raises(AssertionError, match=name):
            meshes.agree({"ours": ours, name: answer})
    labels = nets[0].GetCellData().GetArray("BoundaryLabels")
    for n in range(labels.GetNumberOfTuples()):
        labels.SetTuple2(n, *(min(value, 7) for value in labels.GetTuple2(n)))
    with pytest.raises(AssertionError, match="SurfaceNets"):
        meshes.agree({"ours": ours, mesh.NETS: nets})  # bone 8 is not there


@pytest.mark.parametrize("times", [1, 2])
def test_classes_are_held_equal_to_each_peers(times):
    (classes,) = [row for row in space.rows(True) if row.name == f"classes {times}"]
    answers = {name: action() for name, action in classes.peers.actions.items()}
    assert set(answers) == {"torch interpolate, argmax", "SimpleITK resampled, argmax"}
    ours = classes.ours()
    assert ours.shape == (8, 64, 64)
    assert set(np.unique(ours)) == set(range(5))
    assert classes.agree(answers | {"ours": ours})
    ours[0, 0, 0] ^= 1
    with pytest.raises(AssertionError, match="argmax"):
        classes.agree(answers | {"ours": ours})
