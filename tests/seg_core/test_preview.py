import numpy as np
import pytest
from PIL import Image

from seg_core.colours import bone_colours
from seg_core.errors import GeometryError
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import BONES, plain_labels, sided_labels
from seg_core.preview import draw_preview, write_preview
from seg_core.views import choose_levels, crop_around, front, group_labels, lps_axes, radiological


def reoriented(volume, labelmap, order, flips):
    """The same scan stored along other axes."""
    step = tuple(slice(None, None, -1 if flip else 1) for flip in flips)
    corner = [
        n - 1 if flip else 0
        for n, flip in zip(np.array(volume.geometry.shape)[list(order)], flips, strict=True)
    ]
    signs = np.diag([-1.0 if flip else 1.0 for flip in flips])
    shuffle = np.eye(3)[:, list(order)]
    affine = np.eye(4)
    affine[:3, :3] = volume.geometry.affine[:3, :3] @ shuffle @ signs
    affine[:3, 3] = volume.geometry.to_world(shuffle @ corner)
    image = volume.array.transpose(order)[step]
    geometry = Geometry(image.shape, affine)
    return Volume(image, geometry), LabelMap(labelmap.array.transpose(order)[step], geometry, labelmap.labels)


ORDERS = [((0, 1, 2), (0, 0, 0)), ((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (0, 1, 0)), ((1, 2, 0), (1, 0, 1))]


@pytest.mark.parametrize(("order", "flips"), ORDERS)
def test_the_view_does_not_depend_on_how_the_scan_is_stored(legs, order, flips):
    expected, found = radiological(*legs), radiological(*reoriented(*legs, order, flips))
    np.testing.assert_array_equal(found.image, expected.image)
    np.testing.assert_array_equal(found.labels, expected.labels)
    assert found.sizes == pytest.approx(expected.sizes)


def test_the_patients_right_is_on_the_left_of_the_page(legs):
    view = radiological(*legs)
    columns = {value: np.argwhere(view.labels == value)[:, 0].mean() for value in (1, 5)}
    assert columns[1] < columns[5]
    picture = np.asarray(draw_preview(*legs)).astype(int)
    blue = (np.abs(picture - (139, 157, 252)).sum(axis=2) < 40).nonzero()[1]
    pale = (np.abs(picture - (191, 201, 253)).sum(axis=2) < 40).nonzero()[1]
    frontal = picture.shape[1] * 0.3
    assert blue[blue < frontal].mean() < pale[pale < frontal].mean()


def test_slice_numbers_are_those_of_the_file(legs):
    flipped = radiological(*reoriented(*legs, (0, 1, 2), (0, 0, 1)))
    assert (radiological(*legs).stored(3), flipped.stored(3)) == (3, 36)
    assert radiological(*legs).slice_axis
    assert not radiological(*reoriented(*legs, (2, 0, 1), (0, 0, 0))).slice_axis


def test_axes_of_all_orientations():
    assert lps_axes(Geometry((1, 1, 1), np.diag([-1, -1, 1, 1]))) == ((0, 1, 2), (False, False, False))
    assert lps_axes(Geometry((1, 1, 1), np.eye(4))) == ((0, 1, 2), (True, True, False))


def test_every_bone_is_on_one_of_the_slices(legs):
    view = radiological(*legs)
    levels = choose_levels(view.labels, list(group_labels(legs[1].labels).values()))
    shown = {int(v) for level in levels for v in np.unique(view.labels[:, :, level])}
    assert shown == set(range(9))
    assert levels == sorted(set(levels), reverse=True)
    assert len(levels) == 8


def test_the_crop_holds_all_labels_and_little_air(legs):
    view = radiological(*legs)
    columns, rows = crop_around(view, 60)
    assert (view.labels[columns, rows] > 0).sum() == (view.labels > 0).sum()
    assert columns.stop - columns.start < view.labels.shape[0]


def test_front_sees_the_nearest_label():
    labels = np.zeros((1, 3, 2), np.uint8)
    labels[0, 1, 0], labels[0, 2, 0], labels[0, 2, 1] = 3, 4, 5
    seen, depth = front(labels, 2.0)
    np.testing.assert_array_equal(seen, [[5], [3]])
    np.testing.assert_array_equal(depth, [[4.0], [2.0]])


def test_the_picture_is_written_with_colours_and_without_metadata(legs, tmp_path):
    write_preview(tmp_path / "p.png", *legs, title="leg")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.mode == "RGB"
        assert picture.info == {}
        pixels = np.asarray(picture).astype(int)
    for colour in ((139, 157, 252), (255, 207, 58), (109, 213, 164), (236, 65, 142)):
        assert (np.abs(pixels - colour).sum(axis=2) < 30).sum() > 50


def test_an_empty_result_and_a_single_slice_are_drawn(legs):
    volume, labelmap = legs
    empty = LabelMap(labelmap.array * np.uint8(0), labelmap.geometry, plain_labels(BONES))
    assert min(draw_preview(volume, empty).size) > 300
    geometry = volume.geometry.window((0, 0, 10), (64, 64, 1))
    one = Volume(volume.array[:, :, 10:11], geometry)
    assert min(draw_preview(one, LabelMap(labelmap.array[:, :, 10:11], geometry, labelmap.labels)).size) > 300


def test_thirty_muscles_fit_the_page_each_in_its_own_colour(legs):
    volume, labelmap = legs
    names = sided_labels(("gastrocnemius_lateralis", *(f"muscle_{n}" for n in range(29))))
    colours = np.array(list(bone_colours(names).values()))
    apart = np.abs(colours[:, None] - colours).sum(axis=2) + 99 * np.eye(len(colours), dtype=int)
    assert apart.min() > 15
    tibia = LabelMap(np.where(labelmap.array == 1, labelmap.array, 0), labelmap.geometry, names)
    picture = draw_preview(volume, tibia)
    assert picture.height > 31 * 34
    written = (np.asarray(picture).min(axis=2) > 200)[-300:, :].any(axis=0)
    assert written[:200].any()
    plain = draw_preview(volume, LabelMap(tibia.array, tibia.geometry, plain_labels(("soleus",))))
    assert picture.width > plain.width


def test_another_grid_is_refused(legs):
    volume, labelmap = legs
    moved = LabelMap(
        labelmap.array, volume.geometry.window((1, 0, 0), volume.geometry.shape), labelmap.labels
    )
    with pytest.raises(GeometryError, match="another grid"):
        draw_preview(volume, moved)
