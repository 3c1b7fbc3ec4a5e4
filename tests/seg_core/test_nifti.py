import gzip
import json
from itertools import permutations, product

import nibabel
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from seg_core.colours import bone_colours
from seg_core.errors import GeometryError, OutputError, ScanError, UsageError
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.nifti import (
    is_nifti,
    label_slabs,
    names_beside,
    read_image,
    read_label_table,
    read_labels,
    read_volume,
    stem,
    write_label_table,
    write_labels,
    write_volume,
)

FLIP = np.diag([-1.0, -1.0, 1.0])
ORIENTATIONS = [
    np.eye(3)[list(order)].T * signs
    for order in permutations(range(3))
    for signs in product([1, -1], repeat=3)
]


def random_array(shape=(4, 5, 6), dtype=np.int16, seed=0):
    return np.random.default_rng(seed).integers(0, 9, shape).astype(dtype)


def affine_of(directions, spacing=(0.9, 1.1, 3.0), origin=(-100.5, 33.25, 740.125)):
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(spacing)
    affine[:3, 3] = origin
    return affine


def save(path, array, affine=None, **header):
    """Write with nibabel, as a peer."""
    image = nibabel.Nifti1Image(array, np.diag([1.0, 2, 3, 1]) if affine is None else affine)
    for name, value in header.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


@pytest.mark.parametrize("directions", ORIENTATIONS)
def test_peers_read_labels_in_all_48_orientations(tmp_path, directions):
    array = random_array(dtype=np.uint8)
    geometry = Geometry(array.shape, affine_of(directions))
    path = tmp_path / "labels.nii"
    assert write_labels(path, LabelMap(array, geometry, {})) == ()
    image = nibabel.load(path)
    assert np.array_equal(np.asarray(image.dataobj), array)
    assert image.get_data_dtype() == np.uint8
    (sform, sform_code), (qform, qform_code) = image.get_sform(coded=True), image.get_qform(coded=True)
    assert sform_code == qform_code == 1
    assert np.allclose(sform, geometry.affine, atol=1e-4)
    assert np.allclose(qform, geometry.affine, atol=1e-4)
    itk = SimpleITK.ReadImage(str(path))
    assert np.array_equal(SimpleITK.GetArrayFromImage(itk).T, array)
    last = [n - 1 for n in array.shape]
    lps = itk.TransformIndexToPhysicalPoint(last)
    assert np.allclose(FLIP @ lps, geometry.to_world(last), atol=1e-3)
    back = read_labels(path)
    assert np.array_equal(back.array, array)
    assert back.geometry.is_close(geometry)


@settings(deadline=None, max_examples=20)
@given(
    angles=st.tuples(*[st.floats(-180, 180)] * 3),
    shape=st.tuples(*[st.integers(1, 20)] * 3),
    dtype=st.sampled_from(
        ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"]
    ),
    name=st.sampled_from(["v.nii", "v.nii.gz"]),
    mirrored=st.booleans(),
)
def test_a_volume_comes_back(tmp_path_factory, angles, shape, dtype, name, mirrored):
    path = tmp_path_factory.mktemp("nifti") / name
    directions = Rotation.from_euler("xyz", angles, degrees=True).as_matrix()
    array = random_array(shape, dtype)
    array[0, 0, 0] = 0
    array[-1, -1, -1] = 9  # a single voxel is constant
    geometry = Geometry(shape, affine_of(directions * [-1 if mirrored else 1, 1, 1]))
    assert write_volume(path, Volume(array, geometry)) == ()
    if array.min() == array.max():
        with pytest.raises(ScanError, match="every voxel has the value 9"):
            read_volume(path)
        return
    image = read_image(path)
    assert np.array_equal(image.volume.array, array)
    assert image.volume.array.dtype == dtype
    assert image.volume.array.T.flags.c_contiguous
    assert image.volume.geometry.is_close(geometry)
    assert image.warnings == ()


def test_equal_content_is_equal_bytes(tmp_path):
    volume = Volume(random_array(), Geometry((4, 5, 6), affine_of(np.eye(3))))
    (tmp_path / "below").mkdir()
    first, second = tmp_path / "a.nii.gz", tmp_path / "below" / "b.nii.gz"
    write_volume(first, volume)
    write_volume(second, Volume(np.asfortranarray(volume.array), volume.geometry))
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes()[4:8] == b"\0\0\0\0"  # no time
    write_volume(tmp_path / "a.nii", volume)
    assert gzip.decompress(first.read_bytes()) == (tmp_path / "a.nii").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii", "a.nii.gz", "below"]


def test_stored_values_times_slope_plus_intercept(tmp_path):
    stored = random_array()
    path = save(tmp_path / "a.nii", stored)
    data = bytearray(path.read_bytes())
    data[112:120] = np.array([0.25, -3.0], "<f4").tobytes()
    path.write_bytes(data)
    result = read_volume(path).array
    assert result.dtype == np.float32
    assert np.array_equal(result, stored * 0.25 - 3)
    assert np.array_equal(result, nibabel.load(path).get_fdata())


def test_big_endian_becomes_native(tmp_path):
    array = random_array()
    image = nibabel.Nifti1Image(array, np.eye(4), nibabel.Nifti1Header(endianness=">"))
    image.set_data_dtype(np.int16)
    nibabel.save(image, tmp_path / "a.nii")
    result = read_volume(tmp_path / "a.nii").array
    assert result.dtype == np.dtype("=i2")
    assert result.dtype.isnative
    assert np.array_equal(result, array)


def test_sform_before_qform_before_voxel_sizes(tmp_path):
    array = random_array()
    image = nibabel.Nifti1Image(array, None)
    sform, qform = affine_of(np.eye(3)), affine_of(np.eye(3), origin=(1, 2, 3))
    image.header.set_zooms((0.9, 1.1, 3.0))
    expected = {
        (0, 0): (np.diag([0.9, 1.1, 3.0, 1]), "does not say how it lies"),
        (0, 1): (qform, None),
        (2, 0): (sform, None),
        (2, 1): (sform, "sform and qform of the file differ"),
    }
    for (sform_code, qform_code), (affine, warning) in expected.items():
        image.header.set_sform(sform, sform_code)
        image.header.set_qform(qform, qform_code)
        nibabel.Nifti1Image(array, None, image.header).to_filename(tmp_path / "a.nii")
        result = read_image(tmp_path / "a.nii")
        assert np.allclose(result.volume.geometry.affine, affine, atol=1e-5)
        assert len(result.warnings) == (warning is not None)
        assert warning is None or warning in result.warnings[0]


def test_units_become_millimetres(tmp_path):
    array = random_array()
    image = nibabel.Nifti1Image(array, affine_of(np.eye(3), (0.001, 0.002, 0.003), (0.1, 0.2, 0.3)))
    image.header.set_xyzt_units("meter")
    nibabel.save(image, tmp_path / "a.nii")
    result = read_image(tmp_path / "a.nii")
    assert result.volume.geometry.voxel_sizes == pytest.approx((1, 2, 3))
    assert "metres" in result.warnings[0]


def test_a_fourth_axis(tmp_path):
    array = random_array((4, 5, 6, 3))
    with pytest.raises(ScanError, match="3 volumes"):
        read_volume(save(tmp_path / "a.nii", array))
    with pytest.raises(ScanError, match="3 volumes"):
        read_labels(tmp_path / "a.nii")
    one = read_volume(save(tmp_path / "b.nii", array[..., :1]))
    assert np.array_equal(one.array, array[..., 0])
    flat = read_volume(save(tmp_path / "c.nii", array[:, :, 0, 0]))
    assert np.array_equal(flat.array[..., 0], array[:, :, 0, 0])


def test_values_that_are_no_image(tmp_path):
    array = random_array(dtype=np.float32)
    array[1, 2, 3:] = [np.nan, np.inf, -np.inf]
    with pytest.raises(ScanError, match="3 of 120 values are NaN or infinite"):
        read_volume(save(tmp_path / "nan.nii", array))


def test_a_slope_beyond_all_numbers_is_refused(tmp_path):
    path = tmp_path / "huge.nii"
    image = nibabel.Nifti1Image(np.full((3, 4, 5), 1000, np.int16), np.eye(4))
    image.header.set_slope_inter(1e38, 0)
    nibabel.save(image, path)
    with pytest.raises(ScanError, match="NaN or infinite"):
        read_volume(path)
    with pytest.raises(ScanError, match="every voxel has the value 7"):
        read_volume(save(tmp_path / "constant.nii", np.full((3, 3, 3), 7, np.int16)))
    colour = np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    with pytest.raises(ScanError, match="colour or complex"):
        read_volume(save(tmp_path / "rgb.nii", colour))
    with pytest.raises(ScanError, match="colour or complex"):
        read_volume(save(tmp_path / "complex.nii", random_array(dtype=np.complex64)))


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.5, 0.99])
def test_truncated(tmp_path, name, keep):
    array = np.random.default_rng(0).integers(0, 9999, (20, 20, 20)).astype(np.int16)
    path = save(tmp_path / name, array)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(ScanError, match=f"{name} is not NIfTI, or truncated"):
        read_volume(path)


def test_every_changed_byte_of_a_compressed_file_is_noticed(tmp_path):
    array = np.random.default_rng(0).integers(0, 9, (20, 20, 20)).astype(np.uint8)
    path = save(tmp_path / "a.nii.gz", array)
    data = path.read_bytes()
    noticed = 0
    places = range(500, len(data), 97)
    for place in (*places, len(data) - 6):  # at the end lie checksum and length
        changed = bytearray(data)
        changed[place] ^= 0x10
        path.write_bytes(changed)
        try:
            assert np.array_equal(read_volume(path).array, array)
        except ScanError:
            noticed += 1
    assert noticed == len(places) + 1
    path.write_bytes(data[:-4])
    with pytest.raises(ScanError, match="truncated or damaged"):
        read_volume(path)


def test_no_nifti(tmp_path):
    with pytest.raises(ScanError, match="is not there"):
        read_volume(tmp_path / "a.nii")
    for name in ("a.nii", "a.nii.gz"):
        (tmp_path / name).write_text("text")
        with pytest.raises(ScanError, match="is not NIfTI"):
            read_volume(tmp_path / name)


@pytest.mark.parametrize("broken", [np.zeros((3, 4)), np.full((3, 4), np.nan), np.ones((3, 4))])
def test_singular_affine(tmp_path, broken):
    path = save(tmp_path / "a.nii", random_array())
    data = bytearray(path.read_bytes())
    data[280:328] = broken.astype("<f4").tobytes()
    path.write_bytes(data)
    with pytest.raises(GeometryError, match="affine"):
        read_volume(path)


def test_sheared_affine_is_said(tmp_path):
    affine = affine_of(np.eye(3))
    affine[0, 2] = 0.5
    volume = Volume(random_array(), Geometry((4, 5, 6), affine))
    warnings = write_volume(tmp_path / "a.nii", volume)
    assert len(warnings) == 1
    assert "sheared" in warnings[0]
    image = nibabel.load(tmp_path / "a.nii")
    assert np.allclose(image.affine, affine)
    assert image.get_qform(coded=True)[1] == 0
    assert read_volume(tmp_path / "a.nii").geometry.is_close(volume.geometry)


def test_label_values(tmp_path):
    array = random_array()
    labels = read_labels(save(tmp_path / "a.nii", array.astype(np.float32)))
    assert labels.array.dtype == np.uint8
    assert np.array_equal(labels.array, array)
    assert labels.labels == {v: f"label_{v}" for v in range(1, 9)}
    assert read_labels(tmp_path / "a.nii", {1: "bone"}).labels == {1: "bone"}
    write_label_table(tmp_path / "a.json", {2: "left_femur", 1: "right_tibia"})
    assert read_labels(tmp_path / "a.nii").labels == {1: "right_tibia", 2: "left_femur"}
    empty = read_labels(save(tmp_path / "empty.nii", np.zeros((2, 2, 2), np.uint8)))
    assert empty.labels == {}
    for bad in (array + 250, array - 1, array + 0.5, np.where(array > 3, np.nan, array)):
        with pytest.raises(ScanError, match="labels 0 to 255"):
            read_labels(save(tmp_path / "bad.nii", bad.astype(np.float32)))


def test_label_table(tmp_path):
    write_label_table(tmp_path / "a.json", {10: "b", 9: "a"})
    text = (tmp_path / "a.json").read_text()
    assert text.index('"9": "a"') < text.index('"10": "b"')
    assert read_label_table(tmp_path / "a.json") == {9: "a", 10: "b"}
    other = {"0": "background", "1": "a", "254": "b", "255": "ignore", "300": "c", "-1": "d"}
    (tmp_path / "b.json").write_text(json.dumps({"LabelMap": other}))
    assert read_label_table(tmp_path / "b.json") == {1: "a", 254: "b"}
    colours = {int(value): colour for value, colour in json.loads(text)["Colors"].items()}
    assert colours == {v: "#" + bytes(c).hex() for v, c in bone_colours({9: "a", 10: "b"}).items()}
    for bad in ("no json", "[]", '{"LabelMap": {"x": "a"}}', '{"LabelMap": 3}'):
        (tmp_path / "a.json").write_text(bad)
        with pytest.raises(ScanError, match="no label table"):
            read_label_table(tmp_path / "a.json")
    with pytest.raises(OutputError):
        write_label_table(tmp_path / "nowhere" / "a.json", {})


def test_what_cannot_be_written(tmp_path):
    geometry = Geometry((4, 5, 6), np.eye(4))
    volume = Volume(random_array(), geometry)
    with pytest.raises(UsageError, match=r"\.nii or \.nii\.gz"):
        write_volume(tmp_path / "a.mha", volume)
    with pytest.raises(UsageError, match="float16"):
        write_volume(tmp_path / "a.nii", Volume(random_array(dtype=np.float16), geometry))
    with pytest.raises(OutputError, match="cannot be written: No such file"):
        write_volume(tmp_path / "nowhere" / "a.nii", volume)


def test_nothing_is_left_half_written(tmp_path, monkeypatch):
    volume = Volume(random_array(), Geometry((4, 5, 6), np.eye(4)))
    path = tmp_path / "a.nii.gz"
    path.write_text("before")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gzip.GzipFile, "write", full)
    with pytest.raises(OutputError, match="no space left for"):
        write_volume(path, volume)
    assert [p.name for p in tmp_path.iterdir()] == ["a.nii.gz"]
    assert path.read_text() == "before"


def test_names(tmp_path):
    cases = {"a.nii.gz": "a", "b.c.nii": "b.c", "D.NII.GZ": "D"}
    assert {n: stem(tmp_path / n) for n in cases} == cases
    assert [is_nifti(tmp_path / n) for n in ("a.nii", "a.NII.gz", "a.gz", "nii")] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("name", ["labels.nii.gz", "labels.nii"])
@pytest.mark.parametrize("count", [1, 16, 37])
def test_labels_are_read_slab_by_slab(tmp_path, name, count):
    array = np.asfortranarray(np.random.default_rng(0).integers(0, 9, (5, 7, count)).astype(np.uint8))
    geometry = Geometry(array.shape, np.diag([-1.5, -1.5, 3.0, 1.0]))
    write_labels(tmp_path / name, LabelMap(array, geometry, {n: f"b{n}" for n in range(1, 9)}))
    found, slabs = label_slabs(tmp_path / name)
    assert found.is_close(geometry)
    assert np.array_equal(np.concatenate(list(slabs), axis=2), array)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(ScanError):
        list(label_slabs(tmp_path / name)[1])


def test_an_offset_within_the_header_is_its_end(tmp_path):
    array = random_array()
    path = save(tmp_path / "a.nii", array)
    data = bytearray(path.read_bytes())
    data[108:112] = bytes(4)
    path.write_bytes(data)
    assert np.array_equal(read_volume(path).array, array)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr"])
def test_no_distance_between_slices_is_refused(tmp_path, name):
    image = nibabel.Nifti1Image(random_array(), None)
    if name == "a.hdr":
        image = nibabel.Nifti1Pair(random_array(), None)
    for code in (0, 1):
        image.header.set_qform(affine_of(np.eye(3)), code)
        image.header.set_sform(None, 0)
        image.to_filename(tmp_path / name)
        opener = gzip.open if name.endswith("gz") else open
        with opener(tmp_path / name, "rb") as file:
            data = bytearray(file.read())
        data[88:92] = bytes(4)
        with opener(tmp_path / name, "wb") as file:
            file.write(data)
        with pytest.raises(GeometryError, match="a distance of 0 mm"):
            read_image(tmp_path / name)


@pytest.mark.filterwarnings("ignore:.*pixdim.*")
def test_a_flat_image_needs_two_distances(tmp_path):
    path = save(tmp_path / "a.nii", random_array((4, 5)))
    assert read_volume(path).array.shape == (4, 5, 1)


@settings(deadline=None, max_examples=60)
@given(angles=st.tuples(*[st.floats(-0.02, 0.02)] * 3))
def test_a_slight_tilt_is_written_exactly_or_without_a_qform(tmp_path_factory, angles):
    shape, folder = (512, 512, 3), tmp_path_factory.mktemp("tilt")
    geometry = Geometry(shape, affine_of(FLIP @ Rotation.from_euler("xyz", angles).as_matrix()))
    labels = LabelMap(np.zeros(shape, np.uint8), geometry, {})
    warnings = write_labels(folder / "a.nii", labels)
    image = nibabel.load(folder / "a.nii")
    qform, code = image.get_qform(coded=True)
    assert (code, len(warnings)) in ((1, 0), (0, 1))
    assert code == 0 or Geometry(shape, qform).is_close(geometry, 0.05)


def test_names_beside_a_label_map(tmp_path):
    save(tmp_path / "a.nii.gz", random_array(dtype=np.uint8))
    assert names_beside(tmp_path / "a.nii.gz") is None
    (tmp_path / "a.json").write_text('{"Manual": true, "RawSources": []}')
    assert names_beside(tmp_path / "a.nii.gz") is None
    assert read_labels(tmp_path / "a.nii.gz").labels[1] == "label_1"
    (tmp_path / "a.json").write_text('{"LabelMap": {"1": "talus"}}')
    assert names_beside(tmp_path / "a.nii.gz") == {1: "talus"}
    for bad in ("no json", "[]", '{"LabelMap": 3}'):
        (tmp_path / "a.json").write_text(bad)
        with pytest.raises(ScanError, match="no label table"):
            names_beside(tmp_path / "a.nii.gz")
