"""A Keras network that learns, on TensorFlow."""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from llvmlite import binding

from seg_core.errors import DeviceError, MissingPackageError, ModelError, UsageError
from trainers.config import TrainConfig, check_same_network
from trainers.keras import NETWORKS, checkpoint
from trainers.keras.from_model import read_variables, unfold
from trainers.keras.losses import LOSSES
from trainers.keras.networks import build_network, freeze_encoder
from trainers.loop import Images, Labels
from trainers.model_file import model_file, network_of, read_model

LOG = logging.getLogger(__name__)

if keras.backend.backend() != "tensorflow":
    raise MissingPackageError(
        f"Keras is set to the backend {keras.backend.backend()}",
        "tensorflow",
        "unset KERAS_BACKEND, or set it to tensorflow",
    )


class KerasEngine:
    """A network with its loss and Adam; see `trainers.loop.Engine`."""

    def __init__(self, config: TrainConfig, classes: tuple[str, ...]) -> None:
        _check(config)
        self.config, self.classes = config, classes
        _use_threads(config.threads)
        self.device = _device(config.device)
        self.autocast = computes_bfloat16(self.device)
        # Keras draws initial weights from one generator for all networks.
        keras.utils.set_random_seed(config.seed)
        with tf.device(self.device), _mixed_precision(self.autocast):
            self.network, self._folded = _first_network(config, classes)
            if config.freeze_encoder:
                freeze_encoder(self.network)
            self.optimizer = keras.optimizers.Adam(config.lr)
            self.optimizer.build(self.network.trainable_variables)
        self.loss = LOSSES[config.loss]
        signature = [
            tf.TensorSpec((None, config.around.channels, None, None), tf.float32),
            tf.TensorSpec((None, None, None), tf.uint8),
        ]
        self._learn = tf.function(self._learn_eagerly, input_signature=signature)
        self._judge = tf.function(self._judge_eagerly, input_signature=signature)
        self._find = tf.function(self._find_eagerly, input_signature=signature[:1])

    def step(self, images: Images, labels: Labels, lr: float) -> float:
        """Learn from a batch; return its loss."""
        self._check_size(images)
        self.optimizer.learning_rate.assign(lr)
        with tf.device(self.device):
            if self._folded:
                unfold(self.network, self._folded, self._inputs(images))
                self._folded = []
            return float(self._learn(images, labels))

    def evaluate(self, images: Images, labels: Labels) -> tuple[float, Labels]:
        """Return the loss of a batch and the class of each pixel."""
        self._check_size(images)
        with tf.device(self.device):
            loss, found = self._judge(images, labels)
        return float(loss), found.numpy()

    def predict(self, images: Images) -> Labels:
        """Return the class of each pixel."""
        self._check_size(images)
        with tf.device(self.device):
            found: Labels = self._find(images).numpy()
        return found

    def parameters(self) -> tuple[int, int]:
        """Return how many parameters the network has, and how many of them learn."""
        learning = sum(math.prod(v.shape) for v in self.network.trainable_variables)
        return self.network.count_params(), learning

    def save(self, path: Path, facts: dict[str, Any], resumable: bool) -> None:
        """Write network and facts."""
        variables = self._state() if resumable else _named(self.network.weights)
        checkpoint.save(path, {name: v.numpy() for name, v in variables.items()}, facts)

    def load(self, path: Path) -> dict[str, Any]:
        """Take over a resumable checkpoint."""
        arrays, facts = checkpoint.load(path)
        if tuple(facts["classes"]) != self.classes:
            raise UsageError(f"classes {self.classes}", f"{facts['classes']}, with which the training began")
        if facts["config"].get("freeze_encoder", False) != self.config.freeze_encoder:
            raise UsageError(
                f"{path}: other layers learned", fix="give or leave out --freeze-encoder as before"
            )
        _fill(self._state(), arrays, path)
        self._folded = []
        return facts

    def _state(self) -> dict[str, Any]:
        """Return all variables by name: the network's, its random layers', the optimizer's."""
        weights = _named(self.network.weights)
        # Keras numbers seeds and optimizers anew for every one that is made.
        seeds = [v for v in self.network.variables if v.path not in weights]
        own = {f"optimizer/{v.path.partition('/')[2]}": v for v in self.optimizer.variables}
        return weights | {f"seed/{i}": v for i, v in enumerate(seeds)} | own

    def _check_size(self, images: Images) -> None:
        NETWORKS[self.config.network].check_size(images.shape[2:])

    def _learn_eagerly(self, images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        variables = self.network.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.loss(self._logits(images, training=True), labels)
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return loss

    def _judge_eagerly(self, images: tf.Tensor, labels: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        logits = self._logits(images, training=False)
        return self.loss(logits, labels), _classes(logits)

    def _find_eagerly(self, images: tf.Tensor) -> tf.Tensor:
        return _classes(self._logits(images, training=False))

    def _logits(self, images: tf.Tensor, training: bool) -> tf.Tensor:
        return self.network(self._inputs(images), training=training)

    def _inputs(self, images: tf.Tensor) -> tf.Tensor:
        """Return the images as the network takes them."""
        x = tf.transpose(images, (0, 2, 3, 1))
        return tf.repeat(x, self.config.channels // self.config.around.channels, axis=-1)


def _check(config: TrainConfig) -> None:
    """Refuse what PyTorch's trainer can and this one cannot."""
    if config.patch is not None:
        raise UsageError(f"{config.network} on patches of {config.patch}", "slices", "leave --patch out")
    if config.average:
        raise UsageError(f"a running mean that keeps {config.average}", "0", "leave --average out")


def _classes(logits: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.argmax(logits, -1), tf.uint8)


def load_best(path: Path) -> tuple[keras.Model, dict[str, Any]]:
    """Read a checkpoint as a network that computes in float32, and the facts beside it.

    Raises
    ------
    ModelError
        If it cannot be read or does not fit the network.
    """
    arrays, facts = checkpoint.load(path)
    config = facts["config"]
    network = build_network(config["network"], len(facts["classes"]) + 1, config["channels"])
    _fill(_named(network.weights), arrays, path)
    return network, facts


def _first_network(config: TrainConfig, classes: tuple[str, ...]) -> tuple[keras.Model, list[str]]:
    """Build the network that a training begins with; name the BatchNorms that a model file has folded."""
    start, model = config.init, model_file(config.init)
    trained = start not in ("random", "imagenet") and Path(start).suffix not in (".h5", ".hdf5")
    network = build_network(config.network, len(classes) + 1, config.channels, "random" if trained else start)
    if model is not None:
        spec, weights = read_model(model)
        known = {"network": network_of(spec), "channels": spec.channels, "classes": spec.classes}
        check_same_network(config, classes, known)
        arrays, folded = read_variables(network, weights, model)
        _fill(_named(network.weights), arrays, model)
        return network, folded
    if trained:
        arrays, facts = checkpoint.load(Path(start))
        theirs = facts["config"]
        known = {"network": theirs["network"], "channels": theirs["channels"]}
        check_same_network(config, classes, known | {"classes": tuple(facts["classes"])})
        _fill(_named(network.weights), arrays, Path(start))
    return network, []


def _named(variables: Iterable[Any]) -> dict[str, Any]:
    return {variable.path: variable for variable in variables}


def _fill(variables: Mapping[str, Any], arrays: checkpoint.Arrays, path: Path) -> None:
    """Give variables their values by name."""
    for name, variable in variables.items():
        found, expected = arrays[name].shape if name in arrays else None, tuple(variable.shape)
        if found != expected:
            raise ModelError(f"{path}: {name} of shape {found}", f"{expected}")
        variable.assign(arrays[name])


def _device(name: str) -> str:
    """Return TensorFlow's name of a device.

    Raises
    ------
    DeviceError
        If it is not there.
    """
    gpus = [] if name == "cpu" else tf.config.list_physical_devices("GPU")
    if name == "cuda" and not gpus:
        raise DeviceError(
            "TensorFlow finds no GPU", fix="train on the cpu, or pip install 'tensorflow[and-cuda]'"
        )
    return "/GPU:0" if gpus else "/CPU:0"


def _use_threads(threads: int) -> None:
    if threads and threads != tf.config.threading.get_intra_op_parallelism_threads():
        try:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        except RuntimeError:
            LOG.warning("TensorFlow has begun with another number of threads than %d and keeps it", threads)


@contextmanager
def _mixed_precision(wanted: bool) -> Iterator[None]:
    """Let layers made meanwhile compute in bfloat16 if it is wanted; weights are float32."""
    before = keras.config.dtype_policy()
    if wanted:
        keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def computes_bfloat16(device: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulated it would be slower than float32."""
    if device == "/GPU:0":
        return _capability() >= (8, 0)
    abilities = binding.get_host_cpu_features()
    return any(abilities.get(name, False) for name in ("avx512bf16", "amx-bf16"))


def _capability() -> tuple[int, int]:
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    found: tuple[int, int] = details.get("compute_capability", (0, 0))
    return found
