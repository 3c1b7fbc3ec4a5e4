"""A model folder of nnU-Net v2 becomes a model file; nnU-Net's own predictor is the peer."""

import json
import warnings
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from scipy.ndimage import gaussian_filter

from cli.export import export as export_command
from exporters import nnunet
from exporters.nnunet import NnUNetExport, export_nnunet
from seg_core.errors import ModelError, ScanError, UsageError
from seg_core.geometry import Geometry, Volume
from seg_core.metrics import evaluate
from seg_core.nifti import read_volume
from seg_core.runner import Runner
from seg_core.segment import SegmentOptions, segment
from trainers.torch.nnunet import plain_conv_unet

CLASSES = ("tibia", "femur")
SPACING, PATCH = (2.0, 1.0, 1.0), (8, 32, 32)


def make_scan(border=False):
    """A smooth scan (slices, rows, columns) with a bright and a dark body, perhaps with zeros around."""
    z, r, c = np.indices((14, 40, 44))
    labels = np.zeros(z.shape, np.uint8)
    labels[(2 * (z - 7)) ** 2 + (r - 13) ** 2 + (c - 14) ** 2 < 100] = 1
    labels[(2 * (z - 6)) ** 2 + (r - 25) ** 2 + (c - 31) ** 2 < 90] = 2
    image = np.choose(labels, [100.0, 220.0, 20.0])
    image += np.random.default_rng(0).normal(0, 12, image.shape)
    image = gaussian_filter(image, (0.4, 0.8, 0.8)).astype(np.float32)
    if border:
        image[:, :2], image[..., 41:] = 0, 0
    return image, labels


def architecture(dims):
    """A small plain U-Net, in the words of plans.json."""
    return {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 2,
            "features_per_stage": [8, 12],
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [[3] * dims] * 2,
            "strides": [[1] * dims, [2] * dims],
            "n_conv_per_stage": [1, 1],
            "n_conv_per_stage_decoder": [1],
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans_of(dims, **changes):
    image, _ = make_scan()
    resample = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "d",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(PATCH[-dims:]),
        "median_image_size_in_voxels": [14.0, 40.0, 44.0][-dims:],
        "spacing": list(SPACING[-dims:]),
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resample | {"order": 3},
        "resampling_fn_seg_kwargs": resample | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resample | {"order": 1},
        "architecture": architecture(dims),
        "batch_dice": False,
    }
    top = {key: changes.pop(key) for key in ("transpose_forward", "image_reader_writer") if key in changes}
    order = top.get("transpose_forward", [0, 1, 2])
    return {
        "dataset_name": "Dataset001_Legs",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": order,
        "transpose_backward": [order.index(n) for n in range(3)],
        "configurations": {
            "base": configuration,
            "2d" if dims == 2 else "3d_fullres": {"inherits_from": "base"} | changes,
        },
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            "0": {
                "mean": float(image.mean()),
                "std": float(image.std()),
                "percentile_00_5": 25.0,
                "percentile_99_5": 210.0,
            }
        },
    } | top  # fmt: skip


def learn(dims):
    """A network that finds the two bodies, also where slices and rows are exchanged."""
    torch.manual_seed(0)
    known = architecture(dims)["arch_kwargs"]
    kinds = {"conv_op": getattr(torch.nn, f"Conv{dims}d"), "nonlin": torch.nn.LeakyReLU}
    kinds["norm_op"] = getattr(torch.nn, f"InstanceNorm{dims}d")
    network = plain_conv_unet()(input_channels=1, num_classes=3, deep_supervision=False, **known | kinds)
    image, labels = make_scan()
    x = torch.from_numpy((image - image.mean()) / image.std())
    y = torch.from_numpy(labels.astype(np.int64))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    rng = np.random.default_rng(0)
    for step in range(100):
        starts = [int(rng.integers(0, n - p + 1)) for n, p in zip(x.shape, PATCH, strict=True)]
        box = tuple(slice(start, start + p) for start, p in zip(starts, PATCH, strict=True))
        patch, target = (x[box][None, None], y[box][None]) if dims == 3 else (x[box][:, None], y[box])
        if dims == 3 and step % 2:
            patch, target = patch.transpose(2, 3), target.transpose(1, 2)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(patch), target).backward()
        optimizer.step()
        schedule.step()
    return network.state_dict()


@pytest.fixture(scope="module")
def weights():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network waits for its threads
    yield {dims: learn(dims) for dims in (2, 3)}
    torch.set_num_threads(threads)


@pytest.fixture
def make_folder(tmp_path, weights):
    def make(dims=3, folds=("0",), dataset=None, **changes):
        plans, name = plans_of(dims, **changes), "2d" if dims == 2 else "3d_fullres"
        labels = {"background": 0} | {bone: value for value, bone in enumerate(CLASSES, 1)}
        about = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": 7, "file_ending": ".nii.gz"}
        about |= dataset or {}
        (tmp_path / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
        (tmp_path / "dataset.json").write_text(json.dumps(about), encoding="utf-8")
        arguments = {"configuration": name, "plans": plans, "fold": 0, "dataset_json": about}
        state = {
            "network_weights": weights[dims],
            "trainer_name": "nnUNetTrainer",
            "init_args": arguments | {"device": torch.device("cpu")},
            "inference_allowed_mirroring_axes": (0, 1, 2),
            "logging": {"mean_fg_dice": [np.float64(0.5)], "lrs": [0.01], "train_losses": [np.float32(1)]},
            "_best_ema": np.float64(0.5),
        }
        for number, fold in enumerate(folds):
            (tmp_path / f"fold_{fold}").mkdir()
            scaled = {key: value * (1 + number / 10) for key, value in weights[dims].items()}
            state["network_weights"] = scaled
            torch.save(state, tmp_path / f"fold_{fold}" / "checkpoint_final.pth")
        return tmp_path

    return make


def ours(folder, image, spacing, request=None):
    """The labels of `lls` (slices, rows, columns) for a scan whose axes run to L, P, S."""
    path = folder / "model.onnx"
    export_nnunet(folder, path, request)
    affine = np.diag([-spacing[2], -spacing[1], spacing[0], 1.0])
    found = segment(Volume(image.T, Geometry(image.T.shape, affine)), Runner(path, "cpu"), SegmentOptions())
    return found.labels.array.T


def theirs(folder, image, spacing, folds):
    """The labels of nnU-Net's own predictor, mirroring off."""
    pytest.importorskip("nnunetv2", reason="nnunetv2 is in the extra dev")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

        predictor = nnUNetPredictor(
            use_mirroring=False,
            perform_everything_on_device=False,
            device=torch.device("cpu"),
            allow_tqdm=False,
        )
        predictor.initialize_from_trained_model_folder(str(folder), folds)
        return predictor.predict_single_npy_array(image[None], {"spacing": list(spacing)}, None, None, False)


def case(dims=3, folds=("0",), border=False, scan_mm=SPACING, **changes):
    return SimpleNamespace(dims=dims, folds=folds, border=border, scan_mm=scan_mm, changes=changes)


CASES = {
    "3d": case(),
    "2d": case(2, scan_mm=(6.0, 1.15, 1.1)),
    "folds": case(folds=("0", "1")),
    "masked": case(border=True, use_mask_for_norm=[True]),
    "ct": case(border=True, normalization_schemes=["CTNormalization"]),
    "transposed": case(transpose_forward=[1, 0, 2], spacing=[1.0, 2.0, 1.0], patch_size=[32, 8, 32]),
    "resampled": case(scan_mm=(2.3, 0.9, 0.95)),
    "coarse slices": case(scan_mm=(4.0, 0.9, 0.95)),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_labels_agree_with_nnunets_own_predictor(make_folder, case):
    image, labels = make_scan(case.border)
    folder = make_folder(case.dims, case.folds, **case.changes)
    found = ours(folder, image, case.scan_mm)
    expected = theirs(folder, image, case.scan_mm, case.folds).astype(np.uint8)
    assert evaluate(found, labels, 2, 1.0).dsc.min() > 0.8  # it is no noise that agrees
    assert evaluate(found, expected, 2, 1.0).dsc.min() >= 0.995


def test_the_file_says_what_the_plans_say(make_folder):
    folder = make_folder(spacing=[3.0, 1.5, 1.25])
    path = folder / "legs.onnx"
    done = CliRunner().invoke(
        export_command, ["--from-nnunet", str(folder), "--fold", "0", "-o", str(path), "--name", "legs"]
    )
    assert done.exit_code == 0, done.output
    spec = Runner(path, "cpu").spec
    assert (spec.name, spec.classes, spec.sided, spec.channels) == ("legs", CLASSES, False, 1)
    assert (spec.patch, spec.overlap, spec.limb_range) == (PATCH, 0.5, False)
    assert (spec.grid.kind, spec.grid.spacing_mm, spec.grid.slice_mm) == ("nnunet", (1.5, 1.25), 3.0)
    assert spec.provenance["trained_as"] == "nnUNetTrainer, checkpoint_final of fold 0"
    assert "checkpoint_final of fold 0" in done.output
    assert spec.normalisation.kind == "zscore"
    assert str(folder).encode() not in path.read_bytes()


@pytest.fixture
def scan_file(tmp_path):
    """A NIfTI of the scan, its axes to L, P, S."""
    image, _ = make_scan(border=True)
    nib.save(nib.Nifti1Image(image.T, np.diag([-1.0, -1, 2, 1])), tmp_path / "legs.nii.gz")
    return tmp_path / "legs.nii.gz"


@pytest.mark.parametrize("dims", [2, 3])
def test_the_gate_compares_patches_of_scans_as_the_runner_shows_them(
    make_folder, scan_file, dims, monkeypatch
):
    seen, shown, gate, infer = [], [], nnunet.export, Runner.logits

    def spy(network, spec, path, samples, options):
        seen.append(samples)
        return gate(network, spec, path, samples, options)

    monkeypatch.setattr(nnunet, "export", spy)
    folder = make_folder(dims, use_mask_for_norm=[True])
    arguments = ["--from-nnunet", str(folder), "-o", str(folder / "x.onnx"), "--json"]
    done = CliRunner().invoke(export_command, [*arguments, "--scan", str(scan_file)], catch_exceptions=False)
    assert json.loads(done.stdout)["compared_on"] == "patches of scans"
    monkeypatch.setattr(Runner, "logits", lambda self, x: shown.append(x.copy()) or infer(self, x))
    segment(read_volume(scan_file), Runner(folder / "x.onnx", "cpu"))
    (samples,) = seen
    assert len(samples) == 2
    assert all(any(np.array_equal(sample, one[0]) for one in shown) for sample in samples)
    assert samples.std() > 0.5


def test_a_scan_that_is_one_patch_will_do_and_without_one_noise(make_folder, tmp_path):
    folder = make_folder()
    small = tmp_path / "small.nii.gz"
    nib.save(nib.Nifti1Image(make_scan()[0].T[8:20, 5:21, 3:9], np.diag([-1.0, -1, 2, 1])), small)
    arguments = ["--from-nnunet", str(folder), "-o", str(folder / "x.onnx"), "--overwrite"]
    for scan, words in ((["--scan", str(small)], "on patches of scans"), ([], "on drawn noise")):
        done = CliRunner().invoke(export_command, [*arguments, *scan], catch_exceptions=False)
        assert words in done.stdout
    done = CliRunner().invoke(export_command, [*arguments, "--scan", str(folder / "plans.json")])
    assert isinstance(done.exception, ScanError)


def test_its_twin_in_16_bits(make_folder, scan_file):
    path = make_folder() / "x.onnx"
    export_nnunet(path.parent, path)
    twin = path.with_name("x.fp16.onnx")
    arguments = [str(path), "--precision", "fp16", "--scan", str(scan_file), "-o", str(twin), "--json"]
    done = CliRunner().invoke(export_command, arguments, catch_exceptions=False)
    agreement = json.loads(done.stdout)["agreement"]
    assert set(agreement) == set(CLASSES)
    assert min(agreement.values()) > 0.99
    types = [tensor.data_type for tensor in onnx.load(twin).graph.initializer if len(tensor.dims) == 5]
    assert set(types) == {onnx.TensorProto.FLOAT16}
    wanted, found = (
        segment(read_volume(scan_file), Runner(path, "cpu", precision=precision)).labels.array
        for precision in ("fp32", "fp16")
    )
    assert evaluate(found, wanted, 2, 1.0).dsc.min() > 0.99


@pytest.mark.parametrize("reader", ["NibabelIOWithReorient", "SimpleITKIOWithReorient"])
def test_a_reader_that_turns_all_scans_to_ras_says_how_they_lie(make_folder, reader):
    pytest.importorskip("nnunetv2", reason="nnunetv2 is in the extra dev")
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name

    folder = make_folder(image_reader_writer=reader)
    array = np.arange(24.0).reshape(2, 3, 4)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1, 1, 1])), folder / "lps.nii.gz")
    read, _ = recursive_find_reader_writer_by_name(reader)().read_images([folder / "lps.nii.gz"])
    np.testing.assert_array_equal(read[0].T, array[::-1, ::-1])
    export_nnunet(folder, folder / "x.onnx", NnUNetExport(orientation="LPS"))
    assert Runner(folder / "x.onnx", "cpu").spec.orientation == "RAS"


def before_2_5(folder):
    """Write the plans as nnU-Net wrote them before its version 2.5, and return them."""
    plans = json.loads((folder / "plans.json").read_text())
    known = plans["configurations"]["base"].pop("architecture")["arch_kwargs"]
    plans["configurations"]["base"] |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 8,
        "unet_max_num_features": 12,
        "n_conv_per_stage_encoder": known["n_conv_per_stage"],
        "n_conv_per_stage_decoder": known["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [1, 1, 1],
        "pool_op_kernel_sizes": known["strides"],
        "conv_kernel_sizes": known["kernel_sizes"],
    }
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    for file in folder.glob("fold_*/*.pth"):
        state = torch.load(file, weights_only=False)
        state["init_args"]["plans"] = plans
        torch.save(state, file)
    return plans


def test_plans_from_before_nnunet_2_5_agree_with_nnunets_own_predictor(make_folder):
    image, labels = make_scan()
    folder = make_folder()
    plans = before_2_5(folder)
    found = ours(folder, image, SPACING)
    assert evaluate(found, labels, 2, 1.0).dsc.min() > 0.8
    assert evaluate(found, theirs(folder, image, SPACING, ("0",)).astype(np.uint8), 2, 1.0).dsc.min() >= 0.995
    plans["configurations"]["base"]["UNet_class_name"] = "MyUNet"
    (folder / "plans.json").write_text(json.dumps(plans), encoding="utf-8")
    with pytest.raises(ModelError, match="the architecture MyUNet"):
        export_nnunet(folder, folder / "x.onnx")


def test_a_trainer_that_built_another_network_is_named(make_folder):
    folder = make_folder()
    file = folder / "fold_0" / "checkpoint_final.pth"
    state = torch.load(file, weights_only=False) | {"trainer_name": "nnUNetTrainerBN"}
    state["network_weights"]["encoder.norm.running_mean"] = torch.zeros(8)
    torch.save(state, file)
    with pytest.raises(ModelError, match="nnUNetTrainerBN built another network"):
        export_nnunet(folder, folder / "x.onnx")


def test_a_network_of_slices_sees_flat_patches_in_the_scans_own_slices(make_folder):
    folder = make_folder(2, transpose_forward=[2, 0, 1])
    export_nnunet(folder, folder / "2d.onnx", NnUNetExport(orientation="ras"))
    spec = Runner(folder / "2d.onnx", "cpu").spec
    assert (spec.patch, spec.grid.slice_mm) == ((1, *PATCH[1:]), None)
    assert spec.orientation == "ASR"  # columns to A, rows to S, slices to R


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"dataset": {"channel_names": {"0": "T1", "1": "T2"}}}, ModelError, "2 channels"),
        ({"dataset": {"labels": {"background": 0, "a": [1, 2], "b": 2}}}, ModelError, "regions"),
        ({"previous_stage": "3d_lowres"}, ModelError, "cascade"),
        ({"normalization_schemes": ["NoNormalization"]}, ModelError, "normalisation NoNormalization"),
        ({"resampling_fn_data": "resample_torch_fornnunet"}, ModelError, "data resampled by resample_torch"),
        ({"architecture": {"network_class_name": "os.system", "arch_kwargs": {}, "_kw_requires_import": []}},
         ModelError, "os.system"),
        ({"folds": ()}, UsageError, "any fold"),
        ({"request": NnUNetExport(folds=("3",))}, UsageError, "of 3 in"),
        ({"request": NnUNetExport(orientation="LPL")}, UsageError, "orientation 'LPL'"),
    ],
)  # fmt: skip
def test_what_the_runner_cannot_do_is_refused_by_name(make_folder, changes, error, message):
    request = changes.pop("request", None)
    folder = make_folder(**changes)
    with pytest.raises(error, match=message):
        export_nnunet(folder, folder / "x.onnx", request)
    assert not (folder / "x.onnx").exists()


def left_by_nnunet(folder, monkeypatch, files):
    """A model folder as nnU-Net's own trainer writes it, though it has learned nothing."""
    pytest.importorskip("nnunetv2", reason="nnunetv2 is in the extra dev")
    plans, about = (json.loads((folder / f"{name}.json").read_text()) for name in ("plans", "dataset"))
    for name in ("preprocessed", "results", "raw"):
        monkeypatch.setenv(f"nnUNet_{name}", str(folder / name))
    cases = folder / "preprocessed" / plans["dataset_name"] / "d"
    cases.mkdir(parents=True)
    (cases / "legs_000.b2nd").touch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

        trainer = nnUNetTrainer(
            json.loads(json.dumps(plans)) | {"continue_training": False},
            "3d_fullres",
            0,
            about,
            torch.device("cpu"),
        )
        trainer.initialize()
        trainer.logger.log("train_losses", np.float32(0.5), 0)
        trainer.logger.log("mean_fg_dice", np.mean([0.5, 0.7]), 0)
        for file in files:
            trainer.save_checkpoint(f"{trainer.output_folder}/{file}")
    home = folder / "results" / plans["dataset_name"] / "nnUNetTrainer__nnUNetPlans__3d_fullres"
    for name, content in (("plans", plans), ("dataset", about), ("dataset_fingerprint", {"spacings": []})):
        (home / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    found = home / "crossval_results_folds_0_1_2_3_4"
    found.mkdir()
    (found / "postprocessing.json").write_text('{"postprocessing_fns": ["remove_all_but_largest"]}')
    (home / "fold_0" / "validation").mkdir()
    (home / "fold_0" / "validation" / "summary.json").write_text("{}")
    return home


def test_a_folder_as_nnunets_own_trainer_leaves_it(make_folder, monkeypatch):
    home = left_by_nnunet(
        make_folder(folds=()), monkeypatch, ("checkpoint_best.pth", "checkpoint_latest.pth")
    )
    with pytest.raises(
        UsageError, match=r"fold_0/checkpoint_best\.pth, fold_0/checkpoint_latest\.pth"
    ) as raised:
        export_nnunet(home, home / "x.onnx")
    assert "checkpoint_final.pth" in raised.value.found
    assert not (home / "x.onnx").exists()
    arguments = ["--from-nnunet", str(home), "--checkpoint", "best", "-o", str(home / "best.onnx")]
    done = CliRunner().invoke(export_command, arguments)
    assert done.exit_code == 0, done.output
    spec = Runner(home / "best.onnx", "cpu").spec
    assert (spec.name, spec.classes, spec.patch) == ("Dataset001_Legs 3d", CLASSES, PATCH)


def test_other_folders_are_refused(make_folder, tmp_path):
    with pytest.raises(ModelError, match=r"plans\.json cannot be read"):
        export_nnunet(tmp_path / "none", tmp_path / "x.onnx")
    folder = make_folder()
    torch.save({"network_weights": {}}, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match="cannot be understood"):
        export_nnunet(folder, folder / "x.onnx")
    torch.save({"evil": SimpleNamespace()}, folder / "fold_0" / "checkpoint_final.pth")
    with pytest.raises(ModelError, match="cannot be read"):  # a pickle may run anything
        export_nnunet(folder, folder / "x.onnx")


def test_the_command_wants_one_thing_to_export(tmp_path):
    done = CliRunner().invoke(export_command, ["-o", str(tmp_path / "x.onnx")])
    assert isinstance(done.exception, UsageError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["RUN", "--checkpoint", "latest"],
        ["RUN", "--fold", "1"],
        ["RUN", "--keep-last", "1"],
        ["RUN", "--scan", "SCAN"],
        ["--from-nnunet", "FOLDER", "--slices", "DATASET"],
        ["MODEL.onnx", "--precision", "int8", "--name", "legs"],
        ["MODEL.onnx", "--precision", "fp16", "--keep-last", "1"],
        ["--from-nnunet", "FOLDER", "--precision", "int8"],
    ],
)
def test_the_command_refuses_options_that_would_have_no_effect(arguments, tmp_path):
    done = CliRunner().invoke(export_command, [*arguments, "-o", str(tmp_path / "x.onnx")])
    assert isinstance(done.exception, UsageError)
    assert "leave it out" in str(done.exception)
