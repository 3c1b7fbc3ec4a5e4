import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_erosion, gaussian_filter

from benchmarks.real_legs import __main__ as command
from benchmarks.real_legs import draw, marrow, reference, repeat
from benchmarks.real_legs.outline import RAYS, Outline, closed_path, find_outline
from benchmarks.real_legs.reference import LABELS, ReferenceScan, ReferenceSlice, rasterise, read_reference
from benchmarks.real_legs.score import score_scan, summary, table
from seg_core.errors import ScanError
from seg_core.geometry import Geometry, LabelMap, Volume
from seg_core.labels import BONES, sided_labels
from seg_core.nifti import write_volume

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "real-leg"
PIXEL_MM = 1.5
SHAFT = {"tibia": 12.0, "fibula": 5.0, "femur": 14.0}


def ring(bone, fascia=0.0, faint=0.0, size=61):
    """A slice with a bone in the middle: bright marrow, dark cortex of 3 mm, bright muscle."""
    fine = 5
    axis = (np.arange(size * fine) - (size * fine - 1) / 2) * PIXEL_MM / fine
    x, y = np.meshgrid(axis, axis, indexing="ij")
    r, radius = np.hypot(x, y), SHAFT[bone]
    image = np.where((r < radius) & (r > radius - 3), 20.0, 200.0)
    if fascia:
        image[np.abs(r - radius - fascia) < 0.8] = 60
    if faint:
        image[(r >= radius) & (np.arctan2(y, x) > np.pi - faint)] = 35
    coarse = image.reshape(size, fine, size, fine).mean(axis=(1, 3))
    return coarse + np.random.default_rng(0).normal(0, 5, coarse.shape)


def radii(outline, size=61):
    return np.hypot(*(outline.points - (size - 1) / 2).T) * PIXEL_MM


@pytest.mark.parametrize("bone", SHAFT)
@pytest.mark.parametrize("seed", [(30.0, 30.0), (31.0, 29.5)])
@pytest.mark.parametrize("fascia", [0.0, 4.0])
def test_an_outline_is_the_outer_edge_of_the_cortex(bone, seed, fascia):
    found = find_outline(ring(bone, fascia), seed, bone, PIXEL_MM)
    assert radii(found) == pytest.approx(SHAFT[bone], abs=0.75)
    assert np.mean(radii(found)) == pytest.approx(SHAFT[bone], abs=0.2)
    assert not found.doubtful.any()


def test_where_no_edge_is_seen_is_in_doubt():
    found = find_outline(ring("tibia", faint=np.pi / 3), (30.0, 30.0), "tibia", PIXEL_MM)
    angles = np.arange(RAYS) * 360 / RAYS
    inside = (angles > 125) & (angles < 175)
    assert found.doubtful[inside].mean() > 0.9
    assert not found.doubtful[(angles > 185) | (angles < 115)].any()


def test_an_anchor_holds_the_outline():
    free = find_outline(ring("tibia"), (30.0, 30.0), "tibia", PIXEL_MM)
    held = find_outline(ring("tibia"), (30.0, 30.0), "tibia", PIXEL_MM, [(30.0, 30 + 15 / PIXEL_MM)])
    assert radii(free)[RAYS // 4] < 12.75
    assert radii(held)[RAYS // 4] == pytest.approx(15, abs=0.51)
    assert radii(held)[3 * RAYS // 4] == pytest.approx(radii(free)[3 * RAYS // 4])


@settings(deadline=None, max_examples=60)
@given(arrays(float, (5, 4), elements=st.floats(-9, 9)), st.integers(1, 3), st.floats(0, 3))
def test_a_closed_path_is_the_cheapest_of_all(cost, steps, bend):
    def price(path):
        moves = np.abs(np.diff([*path, path[0]]))
        return cost[np.arange(5), path].sum() + bend * moves.sum() if moves.max() <= steps else np.inf

    best = min(price(np.array(path)) for path in itertools.product(range(4), repeat=5))
    assert price(closed_path(cost, steps, bend)) == pytest.approx(best)


@given(st.lists(st.booleans(), min_size=RAYS, max_size=RAYS))
@settings(max_examples=30)
def test_zones_in_doubt_hold_the_rays_in_doubt(flags):
    angles = 2 * np.pi * np.arange(RAYS) / RAYS
    points = 50 + 8 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    zones = list(draw.doubtful_zones(Outline(points, np.array(flags)), (50, 50), PIXEL_MM))
    held = {tuple(np.round(p, 6)) for zone in zones for half in [len(zone) // 2] for p in
            (zone[1 : half - 1] + zone[half:][::-1][1:-1]) / 2}  # fmt: skip
    assert held == {tuple(np.round(p, 6)) for p, flag in zip(points, flags, strict=True) if flag}
    for zone in zones:
        away = np.hypot(*(zone - 50).T)
        assert away == pytest.approx(np.repeat([10, 6], len(zone) // 2))


GEOMETRY = Geometry((40, 30, 6), np.array([[1.5, 0, 0, 10], [0, 1.5, 0, -20], [0, 0, 6, 3], [0, 0, 0, 1.0]]))
TURNED = Geometry((40, 30, 6), np.diag([-1.5, -1.5, 6, 1.0]))


def inside(point, polygon):
    """Even-odd rule, point by point."""
    odd = False
    for (x1, y1), (x2, y2) in itertools.pairwise([*polygon, polygon[0]]):
        if (y1 > point[1]) != (y2 > point[1]):
            odd ^= point[0] < (x2 - x1) * (point[1] - y1) / (y2 - y1) + x1
    return odd


@pytest.mark.parametrize("geometry", [GEOMETRY, TURNED])
def test_pixels_belong_to_the_polygon_that_holds_their_centre(geometry):
    rng = np.random.default_rng(3)
    centre = geometry.to_world([20.3, 15.2, 2])
    angles = np.sort(rng.uniform(0, 2 * np.pi, 17))
    polygon = centre[:2] + (rng.uniform(5, 14, 17) * [np.cos(angles), np.sin(angles)]).T
    zone = polygon[:4] + 1.1
    one = ReferenceSlice(float(centre[2]), "shaft", {"left_tibia": polygon.tolist()}, [zone.tolist()])
    numbers, bones, doubtful = rasterise([one], geometry)
    assert numbers == [2]
    for i, j in np.ndindex(40, 30):
        point = geometry.to_world([i, j, 2])[:2]
        assert (bones[i, j, 0] == LABELS["left_tibia"]) == inside(point, polygon)
        assert doubtful[i, j, 0] == inside(point, zone)
    assert set(np.unique(bones)) == {0, 5}


def square(x, y, mm, z=15.0):
    """A square of so many mm around the centre of a voxel of `GEOMETRY`."""
    at, h = GEOMETRY.to_world([x, y, 0])[:2], mm / 2
    return [(at + d).tolist() for d in ([-h, -h], [h, -h], [h, h], [-h, h])]


def two_slices(doubtful=()):
    outlines = {"right_tibia": square(20, 15, 13.5), "right_fibula": square(32, 15, 4.5)}
    return [ReferenceSlice(z, "shaft", outlines, list(doubtful)) for z in (15.0, 21.0)]


def label_map(numbers, bones):
    array = np.zeros(GEOMETRY.shape, np.uint8)
    array[..., numbers] = bones
    return LabelMap(array, GEOMETRY, sided_labels(BONES))


def test_equal_labels_are_perfect():
    slices = two_slices()
    scores = score_scan("a", label_map(*rasterise(slices, GEOMETRY)[:2]), slices)
    assert [s.bone for s in scores] == ["right_tibia", "right_fibula", "any bone"]
    assert {(s.dsc, s.hd95_mm, s.missed, s.volume_error_cm3, s.ignored) for s in scores} == {(1, 0, 0, 0, 0)}
    assert scores[0].volume_cm3 == pytest.approx(2 * 81 * 13.5 / 1000)  # 9 x 9 pixels of 13.5 mm3
    assert "| tibia | 1.000 | 1.000 | 0.88 |" in summary(scores)


def test_a_shift_a_miss_and_a_stranger_are_scored_apart():
    slices = two_slices()
    numbers, bones, _ = rasterise(slices, GEOMETRY)
    moved = np.roll(bones, 2, axis=0)
    moved[bones == LABELS["right_fibula"]] = 0
    moved[moved == LABELS["right_fibula"]] = 0
    moved[..., 1] = 0
    moved[2:4, 2:4, 0] = LABELS["left_pelvis"]
    tibia, fibula, every = score_scan("a", label_map(numbers, moved), slices)
    assert tibia.dsc == pytest.approx(2 * 63 / (81 + 2 * 81))
    assert (tibia.missed, tibia.hd95_mm) == (1, 3.0)
    assert tibia.volume_error_cm3 == pytest.approx(-81 * 13.5 / 1000)
    assert (fibula.dsc, fibula.missed, np.isnan(fibula.hd95_mm)) == (0, 2, True)
    assert every.dsc == pytest.approx(2 * 63 / (81 + 4 + 2 * (81 + 9)))
    assert "| none (2 missed) |" in table([fibula])


def test_what_is_in_doubt_counts_nowhere():
    slices = two_slices([square(24.5, 15, 3.3)])  # at the border of the tibia
    numbers, bones, doubtful = rasterise(slices, GEOMETRY)
    assert doubtful.any()
    wrong = np.where(doubtful & (bones > 0), 0, np.where(doubtful, 1, bones)).astype(np.uint8)
    tibia = score_scan("a", label_map(numbers, wrong), slices)[0]
    assert (tibia.dsc, tibia.hd95_mm, tibia.volume_error_cm3) == (1, 0, 0)
    assert tibia.ignored == pytest.approx((doubtful & (bones == 1)).sum() / 162)
    assert tibia.ignored > 0


def box(first_i, last_i, first_j, last_j):
    """A box that holds the centres of these voxels of `GEOMETRY`."""
    x0, y0, _ = GEOMETRY.to_world([first_i, first_j, 0]) - 0.6
    x1, y1, _ = GEOMETRY.to_world([last_i, last_j, 0]) + 0.6
    return [[x0, y0], [x1, y0], [x1, y1], [x0, y1]]


def test_where_doubt_cuts_through_a_bone_there_is_no_edge():
    """It would be the same in both, and errors at the bone's own edge would be among the last 5 %."""
    outline, stripes = {"right_tibia": box(12, 28, 7, 23)}, [box(i, i, 9, 21) for i in (15, 20, 25)]
    whole, doubted = ([ReferenceSlice(15.0, "shaft", outline, zones)] for zones in ([], stripes))
    numbers, bones, doubtful = rasterise(doubted, GEOMETRY)
    assert doubtful.sum() == 3 * 13
    bones[12:14, 12:18] = 0
    scores = [score_scan("a", label_map(numbers, bones), one)[0] for one in (whole, doubted)]
    assert [score.hd95_mm for score in scores] == [3.0, 3.0]


def test_an_edge_that_is_all_in_doubt_has_no_distance():
    around = [box(30, 34, 13, 14), box(30, 34, 16, 17), box(30, 31, 15, 15), box(33, 34, 15, 15)]
    first, second = two_slices()
    slices = [replace(first, doubtful=around), second]
    numbers, bones, doubtful = rasterise(slices, GEOMETRY)
    assert doubtful.sum() == 24  # 5 x 5 pixels but for the middle of the fibula
    bones[..., 1] = np.roll(bones[..., 1], 1, axis=0)
    fibula = score_scan("a", label_map(numbers, bones), slices)[1]
    assert (fibula.missed, fibula.hd95_mm) == (0, 1.5)


def test_hd95_is_that_of_single_slices():
    """A bone that grows from slice to slice has no surface in between."""
    outlines = [{"right_tibia": square(20, 15, mm)} for mm in (9, 30)]
    slices = [ReferenceSlice(z, "shaft", o, []) for z, o in zip((15.0, 21.0), outlines, strict=True)]
    numbers, bones, _ = rasterise(slices, GEOMETRY)
    bones[20, 15, 1] = 0  # a hole: its border lies 15 mm from the outer one
    assert score_scan("a", label_map(numbers, bones), slices)[0].hd95_mm == 0
    bones[..., 1] = np.roll(bones[..., 1], 1, axis=0)
    assert score_scan("a", label_map(numbers, bones), slices)[0].hd95_mm == pytest.approx(1.5 / 2)


def test_of_a_bone_whose_marrow_alone_is_bright_no_more_is_found():
    slices = two_slices(doubtful=[square(32, 15, 4.5)])
    _, whole, _ = rasterise(slices, GEOMETRY)
    image = np.zeros(GEOMETRY.shape)
    for n, one in enumerate(rasterise(slices, GEOMETRY)[0]):
        image[..., one] = np.where(binary_erosion(whole[..., n] == LABELS["right_tibia"]), 100.0, 5.0)
    found = marrow.marrow_dice(ReferenceScan("fat", "", slices), Volume(image, GEOMETRY))
    assert found == {"right_tibia": pytest.approx(2 * 49 / (49 + 81))}  # 7 x 7 of 9 x 9 pixels


def test_another_scan_or_none_is_refused(tmp_path, legs):
    scan = ReferenceScan("water", "0" * 64, [])
    with pytest.raises(ScanError, match=r"no water\.nii\.gz"):
        scan.read(tmp_path)
    write_volume(tmp_path / "water.nii.gz", legs[0])
    with pytest.raises(ScanError, match="another scan"):
        scan.read(tmp_path)
    with pytest.raises(ScanError, match="no axial slice at z = 4"):
        rasterise([ReferenceSlice(4.0, "shaft", {}, [])], GEOMETRY)


def test_the_command_scores_a_scan(tmp_path, legs, tiny_model, monkeypatch, capsys, read_json):
    volume, labels = legs
    k = 10
    outlines = {}
    for value, name in labels.labels.items():
        points = np.argwhere(labels.array[..., k] == value)
        if len(points):
            low, high = points.min(0) - 0.4, points.max(0) + 0.4
            box = [[low[0], low[1]], [high[0], low[1]], [high[0], high[1]], [low[0], high[1]]]
            world = volume.geometry.to_world([[*p, k] for p in box])
            outlines[name] = world[:, :2].tolist()
    write_volume(tmp_path / "made.nii.gz", volume)
    one = ReferenceSlice(float(volume.geometry.to_world([0, 0, k])[2]), "shaft", outlines, [])
    scan = ReferenceScan("made", reference.fingerprint(volume), [one])
    monkeypatch.setattr(command, "read_reference", lambda: [scan])
    files = ["--model", str(tiny_model), "--json", str(tmp_path / "s.json")]
    command.main(["--data", str(tmp_path), *files])
    out = capsys.readouterr().out
    assert "a development set; model tiny" in out
    rows = {row["bone"]: row for row in read_json(tmp_path / "s.json")}
    assert set(rows) == {"right_tibia", "right_fibula", "left_tibia", "left_fibula", "any bone"}
    assert all(row["dsc"] > 0.85 for row in rows.values())  # discs in boxes
    assert f"| made, shaft | right tibia | 1 | {rows['right_tibia']['dsc']:.3f} |" in out


def test_what_is_kept_is_large_enough_and_whole():
    scans = {scan.name: scan for scan in read_reference()}
    assert list(scans) == ["water", "fat", "test_low", "test_up"]
    assert scans["water"].slices == scans["fat"].slices
    drawn = [one for name in ("water", "test_low", "test_up") for one in scans[name].slices]
    assert len(drawn) == 25
    for name, bones in (("water", 4), ("test_low", 4), ("test_up", 2)):
        assert {len(one.outlines) for one in scans[name].slices} == {bones}
    for one in drawn:
        x = {name: np.mean(points, axis=0)[0] for name, points in one.outlines.items()}
        assert len({name.split("_")[1] for name in x}) * 2 == len(x)
        # RAS: right is greater; the fibula lies lateral to the tibia.
        assert min(v for n, v in x.items() if "right" in n) > max(v for n, v in x.items() if "left" in n)
        if len(x) == 4:
            assert x["left_fibula"] < x["left_tibia"] < x["right_tibia"] < x["right_fibula"]
        areas = {name: area(points) for name, points in one.outlines.items()}
        for name, (low, high) in {"tibia": (300, 1100), "fibula": (50, 160), "femur": (500, 1300)}.items():
            assert all(low < mm2 < high for n, mm2 in areas.items() if n.endswith(name)), areas


def area(polygon):
    x, y = np.array(polygon).T
    return abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2


@pytest.fixture
def data():
    if not DATA.is_dir():
        pytest.skip(f"the shared data are not here: {DATA}")
    return DATA


def test_the_outlines_follow_from_what_was_set_by_eye(data, tmp_path):
    draw.main(["--data", str(data), "--out", str(tmp_path / "r.json"), "--pictures", str(tmp_path / "p")])
    assert len(list((tmp_path / "p").glob("*.png"))) == 25
    kept, again = (json.loads(path.read_text()) for path in (reference.REFERENCE, tmp_path / "r.json"))
    assert kept["scans"] == again["scans"]
    for one, other in zip(kept["slices"], again["slices"], strict=True):
        assert one["outlines"].keys() == other["outlines"].keys()
        for name, points in one["outlines"].items():
            # A ray may end at another radius by the last digit of another processor.
            assert np.abs(np.array(points) - other["outlines"][name]).max(axis=1).mean() < 0.1


def test_edges_lie_between_dark_and_bright(data):
    """Just inside an outline it is darker than just outside, in every scan but where fat is all there is."""
    for scan in read_reference():
        if scan.name in ("water", "fat"):
            continue  # each is dark on one side: the edge is in their sum
        volume = scan.read(data)
        numbers, bones, doubtful = rasterise(scan.slices, volume.geometry)
        image = gaussian_filter(volume.array[..., numbers].astype(float), (0.5, 0.5, 0))
        for value in np.unique(bones[bones > 0]):
            mask = bones == value
            rim = mask & ~np.roll(mask, 1, 0) & ~doubtful
            beyond = np.roll(rim, -2, 0) & ~mask & ~doubtful
            assert np.median(image[rim]) < 0.8 * np.median(image[beyond])


def test_the_repeatability_of_equal_drawings_is_perfect():
    one = find_outline(ring("tibia"), (30.0, 30.0), "tibia", PIXEL_MM)
    assert repeat.agreement(one, one, []) == 1
    wide = replace(one, points=30 + (one.points - 30) * 1.2)
    assert repeat.agreement(one, wide, []) == pytest.approx(2 / (1 + 1.44), abs=0.02)
    zone = np.array([[0, 0], [60, 0], [60, 30], [0, 30]], float)
    assert repeat.agreement(one, wide, [zone]) == pytest.approx(2 / (1 + 1.44), abs=0.03)
