import numpy as np
import pytest
import vtk
from hypothesis import given, settings
from hypothesis import strategies as st
from vtk.util.numpy_support import vtk_to_numpy

from seg_core.errors import OutputError, ScanError
from seg_core.ply import Mesh, read_ply, write_ply

VERTICES = np.array([[10, 20, 30], [14, 20, 30], [10, 25, 30], [10, 20, 36]], dtype=float)
FACES = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])


@pytest.fixture
def tetrahedron():
    return Mesh(VERTICES, FACES)


def test_volume_centroid_and_watertight(tetrahedron):
    assert tetrahedron.volume_mm3 == pytest.approx(4 * 5 * 6 / 6)
    np.testing.assert_allclose(tetrahedron.centroid, VERTICES.mean(axis=0))
    assert tetrahedron.is_watertight
    inside_out = Mesh(VERTICES, FACES[:, ::-1])
    assert inside_out.volume_mm3 == pytest.approx(-20)
    assert inside_out.is_watertight


def test_volume_keeps_its_digits_far_away(tetrahedron):
    far = Mesh(VERTICES + 1e5, FACES)
    assert far.volume_mm3 == pytest.approx(20, rel=1e-9)
    np.testing.assert_allclose(far.centroid, VERTICES.mean(axis=0) + 1e5)


@pytest.mark.parametrize(
    "faces",
    [
        FACES[:3],
        np.vstack([FACES, FACES[:1]]),
        np.vstack([FACES[:3], FACES[3:, ::-1]]),
        np.zeros((0, 3), int),
    ],
    ids=["open", "double face", "one face turned", "empty"],
)
def test_what_is_not_watertight(faces):
    assert not Mesh(VERTICES, faces).is_watertight


def test_empty_mesh():
    mesh = Mesh(np.zeros((0, 3)), np.zeros((0, 3)))
    assert mesh.volume_mm3 == 0
    assert np.isnan(mesh.centroid).all()


@pytest.mark.parametrize(
    ("vertices", "faces"),
    [
        (VERTICES[:, :2], FACES),
        (VERTICES, FACES[:, :2]),
        (VERTICES, FACES + 1),
        (VERTICES, FACES - 1),
        (VERTICES * np.nan, FACES),
    ],
)
def test_bad_meshes_are_refused(vertices, faces):
    with pytest.raises(ScanError):
        Mesh(vertices, faces)


def test_a_mesh_does_not_change_with_the_callers_array():
    vertices = VERTICES.copy()
    mesh = Mesh(vertices, FACES)
    vertices[:] = 0
    np.testing.assert_array_equal(mesh.vertices_mm, VERTICES)
    with pytest.raises(ValueError, match="read-only"):
        mesh.vertices_mm[0] = 0


@pytest.mark.parametrize("space", ["lps", "ras"])
def test_round_trip(tmp_path, tetrahedron, space):
    write_ply(tmp_path / "m.ply", tetrahedron, space)
    back = read_ply(tmp_path / "m.ply")
    np.testing.assert_allclose(back.vertices_mm, VERTICES)
    np.testing.assert_array_equal(back.faces, FACES)
    other = read_ply(tmp_path / "m.ply", space="ras" if space == "lps" else "lps")
    np.testing.assert_allclose(other.vertices_mm, VERTICES, err_msg="the header decides, not the argument")


@pytest.mark.parametrize(("space", "signs"), [("lps", (-1, -1, 1)), ("ras", (1, 1, 1))])
def test_vtk_reads_the_stated_space(tmp_path, tetrahedron, space, signs):
    write_ply(tmp_path / "m.ply", tetrahedron, space)
    assert f"comment SPACE={space.upper()}\n".encode() in (tmp_path / "m.ply").read_bytes()
    reader = vtk.vtkPLYReader()
    reader.SetFileName(str(tmp_path / "m.ply"))
    reader.Update()
    np.testing.assert_allclose(vtk_to_numpy(reader.GetOutput().GetPoints().GetData()), VERTICES * signs)
    mass = vtk.vtkMassProperties()
    mass.SetInputData(reader.GetOutput())
    assert mass.GetVolume() == pytest.approx(20, rel=1e-5)


def test_a_colour_is_every_vertexs_and_moves_nothing(tmp_path, tetrahedron):
    write_ply(tmp_path / "m.ply", tetrahedron, colour=(236, 65, 142))
    reader = vtk.vtkPLYReader()
    reader.SetFileName(str(tmp_path / "m.ply"))
    reader.Update()
    found = vtk_to_numpy(reader.GetOutput().GetPointData().GetArray("RGB"))
    np.testing.assert_array_equal(found, [(236, 65, 142)] * len(VERTICES))
    back = read_ply(tmp_path / "m.ply")
    np.testing.assert_allclose(back.vertices_mm, VERTICES)
    np.testing.assert_array_equal(back.faces, FACES)


@pytest.mark.parametrize("mode", ["ascii", "little", "big"])
def test_reads_what_vtk_writes(tmp_path, mode):
    source = vtk.vtkSphereSource()
    source.Update()
    writer = vtk.vtkPLYWriter()
    writer.SetInputConnection(source.GetOutputPort())
    writer.SetFileName(str(tmp_path / "m.ply"))
    if mode == "ascii":
        writer.SetFileTypeToASCII()
    elif mode == "big":
        writer.SetDataByteOrderToBigEndian()
    writer.Write()
    mesh = read_ply(tmp_path / "m.ply", space="ras")
    expected = vtk_to_numpy(source.GetOutput().GetPoints().GetData())
    np.testing.assert_allclose(mesh.vertices_mm, expected, atol=1e-6)
    assert mesh.is_watertight
    assert mesh.volume_mm3 > 0


def test_space_from_header_then_argument_then_lps(tmp_path):
    text = (
        "ply\nformat ascii 1.0\n{}element vertex 1\nproperty float x\nproperty float y\nproperty float z\n"
        "end_header\n1 2 3\n"
    )
    path = tmp_path / "m.ply"
    path.write_text(text.format(""))
    np.testing.assert_allclose(read_ply(path).vertices_mm, [[-1, -2, 3]])
    np.testing.assert_allclose(read_ply(path, "ras").vertices_mm, [[1, 2, 3]])
    path.write_text(text.format("comment SPACE=RAS\n"))
    np.testing.assert_allclose(read_ply(path, "lps").vertices_mm, [[1, 2, 3]])


HEADER = """ply
format {} 1.0
obj_info made by hand
element camera 1
property float view
property list uchar short list
element vertex 5
property double y
property uchar red
property float x
property list uchar int rings
property float z
element face 2
property uchar flags
property list uchar uint vertex_index
end_header
"""


def _body(order):
    """A pentagon's worth of vertices with lists among them; a quadrilateral and a triangle."""
    out = np.array([0.5], order + "f4").tobytes() + b"\x02" + np.array([7, 8], order + "i2").tobytes()
    for n in range(5):
        out += np.array([n * 10.0], order + "f8").tobytes() + b"\xff" + np.array([n], order + "f4").tobytes()
        out += (
            bytes([n]) + np.arange(n).astype(order + "i4").tobytes() + np.array([2], order + "f4").tobytes()
        )
    for face in ([0, 1, 2, 3], [0, 3, 4]):
        out += b"\x01" + bytes([len(face)]) + np.array(face, order + "u4").tobytes()
    return out


@pytest.mark.parametrize(("form", "order"), [("binary_little_endian", "<"), ("binary_big_endian", ">")])
def test_other_elements_lists_and_polygons(tmp_path, form, order):
    (tmp_path / "m.ply").write_bytes(HEADER.format(form).encode() + _body(order))
    mesh = read_ply(tmp_path / "m.ply", "ras")
    np.testing.assert_allclose(mesh.vertices_mm, [[n, n * 10, 2] for n in range(5)])
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [0, 2, 3], [0, 3, 4]])


def test_ascii_other_elements_and_windows_lines(tmp_path):
    rows = ["0.5 2 7 8"] + [f"{n * 10} 255 {n} {n} {' '.join(map(str, range(n)))} 2" for n in range(5)]
    text = HEADER.format("ascii") + "\n".join([*rows, "1 4 0 1 2 3", "1 3 0 3 4"]) + "\n"
    (tmp_path / "m.ply").write_bytes(text.replace("\n", "\r\n").encode())
    mesh = read_ply(tmp_path / "m.ply", "ras")
    np.testing.assert_allclose(mesh.vertices_mm, [[n, n * 10, 2] for n in range(5)])
    np.testing.assert_array_equal(mesh.faces, [[0, 1, 2], [0, 2, 3], [0, 3, 4]])


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_cut_or_damaged_file_is_a_scan_error_or_a_mesh(tmp_path_factory, data):
    whole = HEADER.format("binary_little_endian").encode() + _body("<")
    cut = bytearray(whole[: data.draw(st.integers(0, len(whole) - 1))])
    if cut and data.draw(st.booleans()):
        cut[data.draw(st.integers(0, len(cut) - 1))] ^= data.draw(st.integers(1, 255))
    path = tmp_path_factory.mktemp("ply") / "m.ply"
    path.write_bytes(bytes(cut))
    found = mesh_or_error(path)
    if isinstance(found, ScanError):
        assert "m.ply" in str(found)
    else:
        assert set(np.unique(found.faces)) <= set(range(len(found.vertices_mm)))


def mesh_or_error(path):
    try:
        return read_ply(path)
    except ScanError as error:
        return error


@pytest.mark.parametrize(
    "content",
    [b"", b"solid stl", b"ply\nformat ascii 1.0\nend_header\n", b"ply\nelement vertex 2\nend_header\n"],
)
def test_what_is_no_ply(tmp_path, content):
    (tmp_path / "m.ply").write_bytes(content)
    with pytest.raises(ScanError, match="PLY"):
        read_ply(tmp_path / "m.ply")


def test_a_missing_file_and_a_missing_folder(tmp_path, tetrahedron):
    with pytest.raises(ScanError, match="cannot be read"):
        read_ply(tmp_path / "none.ply")
    with pytest.raises(OutputError, match="cannot be written"):
        write_ply(tmp_path / "none" / "m.ply", tetrahedron)


def test_same_mesh_same_bytes(tmp_path, tetrahedron):
    for name in "ab":
        write_ply(tmp_path / name, tetrahedron)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_unknown_space_is_refused(tmp_path, tetrahedron):
    with pytest.raises(ScanError, match="space"):
        write_ply(tmp_path / "m.ply", tetrahedron, "lpi")
