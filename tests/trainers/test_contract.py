"""What every network of every installed trainer must do, whoever wrote it."""

import json
from contextlib import suppress
from dataclasses import asdict, replace

import numpy as np
import pytest

from exporters.registry import get_exporter
from exporters.run import describe
from seg_core.errors import DeviceError
from seg_core.model_spec import Grid, ModelSpec
from seg_core.runner import Runner
from trainers.config import IGNORED
from trainers.registry import get_config, get_network, get_trainer, trainer_names

CLASSES = ("tibia", "femur")
FEWER_LAYERS = {"SLICES": (2, 2, 3, 2), "VOLUME": (1, 2, 2, 1)}
"""Of DenseUNets, which have hundreds: they are traced layer by layer."""
NAMES = [(trainer, name) for trainer in trainer_names() for name in get_trainer(trainer).NETWORKS]
CASES = [(*names, device) for device in ("cpu", "cuda") for names in NAMES]


class Case:
    """A network with its engine and a batch of two small slices whose classes are grey values."""

    def __init__(self, trainer, name, device):
        self.trainer, self.network = trainer, get_network(trainer, name)
        self.config = get_config(
            trainer, name, batch=2, epoch_samples=2, validation_samples=2, device=device, threads=1
        )
        if self.config.patch:  # as small a one as has several stages
            self.config = replace(self.config, patch=(8, 32, 32))
        multiple = self.network.multiple
        self.shape = self.config.patch or (max(64, multiple), max(64, 2 * multiple))
        self.labels = np.zeros((2, *self.shape), np.uint8)
        rows, columns = self.shape[-2:]
        self.labels[0, ..., rows // 8 : rows * 5 // 8, columns // 8 : columns * 5 // 8] = 1
        self.labels[1, ..., rows // 3 : rows * 7 // 8, columns // 2 : columns * 3 // 4] = 2
        noise = np.random.default_rng(0).normal(0, 0.02, self.labels.shape)
        self.images = (0.1 + 0.4 * self.labels + noise).clip(0, 1).astype(np.float32)[:, None]
        self.labels[..., :4, :] = IGNORED
        self.engine = self.make_engine()

    def make_engine(self):
        return get_trainer(self.trainer).make_engine(self.config, CLASSES)

    def facts(self):
        return {
            "config": asdict(self.config),
            "classes": list(CLASSES),
            "shape": list(self.shape),
            "meta": {"spec": json.loads(ModelSpec("data", CLASSES, grid=Grid("spacing")).to_json())},
            "progress": {"samples": 4, "best_dsc": 0.5},
        }


@pytest.fixture(scope="module")
def fewer_layers():
    from trainers.torch import denseunet

    with pytest.MonkeyPatch.context() as patch:
        for name, blocks in FEWER_LAYERS.items():
            patch.setattr(denseunet, name, replace(getattr(denseunet, name), blocks=blocks))
        yield


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request):
    if "dense" in request.param[1]:
        request.getfixturevalue("fewer_layers")
    return case_or_skip(*request.param)


def case_or_skip(trainer, name, device):
    """Return a case; skip where its packages or a GPU are not there."""
    missing = get_network(trainer, name).missing
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed")
    if (trainer, device) == ("keras", "cuda"):
        share_gpu()
    try:
        return Case(trainer, name, device)
    except DeviceError as error:
        pytest.skip(f"{trainer}: {error.found}")


def share_gpu():
    """Let TensorFlow take no more of the GPU's memory than it needs: PyTorch's cases come next."""
    import tensorflow as tf

    with suppress(RuntimeError):  # it has begun in another test, and has it all
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)


def test_it_learns(case):
    losses = [case.engine.step(case.images, case.labels, 1e-3) for _ in range(3)]
    assert np.isfinite(losses).all()
    assert min(losses[1:]) < losses[0]


def test_it_evaluates_without_learning(case):
    loss, found = case.engine.evaluate(case.images, case.labels)
    again, same = case.engine.evaluate(case.images, case.labels)
    assert found.dtype == np.uint8
    assert found.shape == case.labels.shape
    assert found.max() <= len(CLASSES)
    assert np.isfinite(loss)
    assert loss == again
    assert np.array_equal(found, same)
    assert np.array_equal(case.engine.predict(case.images), found)


def test_it_counts_its_parameters(case):
    every, learning = case.engine.parameters()
    assert every >= learning > 1e6


def test_it_goes_on_as_if_nothing_had_happened(case, tmp_path):
    path = tmp_path / "last.ckpt"
    case.engine.save(path, case.facts(), resumable=True)
    wanted = [case.engine.step(case.images, case.labels, 1e-4) for _ in range(2)]
    resumed = case.make_engine()
    facts = resumed.load(path)
    path.unlink()
    assert facts["progress"] == case.facts()["progress"]
    assert facts["config"]["network"] == case.config.network
    found = [resumed.step(case.images, case.labels, 1e-4) for _ in range(2)]
    # A GPU adds in another order each time, and what it adds is rounded to bfloat16.
    assert found == pytest.approx(wanted, abs=1e-5 if case.config.device == "cpu" else 1e-2)


@pytest.mark.parametrize("trainer", trainer_names())
def test_it_takes_the_gpu_by_itself(trainer):
    case = case_or_skip(trainer, next(iter(get_trainer(trainer).NETWORKS)), "cuda")
    cuda, case.config = case.engine, replace(case.config, device="auto")
    engine = case.make_engine()
    assert engine.device == cuda.device
    assert np.isfinite(engine.step(case.images, case.labels, 1e-3))


def test_it_is_exported(case, tmp_path):
    checkpoint, path = tmp_path / "best.ckpt", tmp_path / "model.onnx"
    case.engine.save(checkpoint, case.facts(), resumable=False)
    exporter = get_exporter(case.trainer)
    network, facts = exporter.load(checkpoint)
    checkpoint.unlink()
    spec = describe(facts, "contract")
    images = np.repeat(case.images, case.config.channels, axis=1)
    done = exporter.export(network, spec, path, images)
    assert done.parity.logits < 1e-4
    runner = Runner(path, "cpu")
    path.unlink()
    assert runner.spec == spec
    _, found = case.engine.evaluate(case.images, case.labels)
    # Where the processor has bfloat16 the engine rounds; the gate above compared in float32.
    alike = 0.95 if case.engine.autocast else 0.999
    if spec.patch is not None:
        assert (runner.logits(images).argmax(1) == found).mean() > alike
        return
    assert (runner.run(images, case.shape).labels == found).mean() > alike
    wider = np.concatenate([images, images], axis=3)
    assert runner.logits(wider).shape == (2, 3, case.shape[0], 2 * case.shape[1])
