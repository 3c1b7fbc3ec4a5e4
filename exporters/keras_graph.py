"""The layers of a Keras network as nodes of ONNX, channels first."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import keras
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporters.onnx_graph import INPUT, LOGITS, OPSET
from seg_core.errors import ModelError

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "Conv2DTranspose")


class Layers:
    """What a functional network's configuration says of its layers.

    Raises
    ------
    ModelError
        If it has several inputs or outputs, or uses a layer twice.
    """

    def __init__(self, network: keras.Model) -> None:
        config = network.get_config()
        entries = config["layers"]
        self.kinds: dict[str, str] = {e["name"]: e["class_name"] for e in entries}
        self.settings: dict[str, dict[str, Any]] = {e["name"]: e["config"] for e in entries}
        self.sources: dict[str, list[str]] = {e["name"]: _sources(e) for e in entries}
        self.input, self.output = _only(config["input_layers"]), _only(config["output_layers"])
        self._uses = Counter(source for sources in self.sources.values() for source in sources)
        self._uses[self.output] += 1

    def consumers(self, name: str) -> list[str]:
        """Return the layers that take what a layer gives."""
        return [other for other, sources in self.sources.items() if name in sources]

    def pairs(self) -> dict[str, str]:
        """Return the convolutions that only a BatchNorm sees, with its name."""
        return {
            source: name
            for name, (source, *_) in ((n, s) for n, s in self.sources.items() if s)
            if self.kinds[name] == "BatchNormalization"
            and self.settings[name]["center"]
            and self.kinds[source] in CONVOLUTIONS
            and self.settings[source]["activation"] == "linear"
            and self._uses[source] == 1
        }

    def pads_within(self, name: str) -> bool:
        """Whether what takes a ZeroPadding2D can do the padding itself."""
        taken = self.consumers(name)
        kinds = {self.kinds[c] for c in taken}
        if self._uses[name] != len(taken) or any(self.settings[c].get("padding") != "valid" for c in taken):
            return False
        # Pooling pads with minus infinity: the same as zero where nothing is below it.
        return kinds <= {"Conv2D", "DepthwiseConv2D"} or (
            kinds == {"MaxPooling2D"} and self._is_relu(self.sources[name][0])
        )

    def _is_relu(self, name: str) -> bool:
        return self.kinds[name] == "ReLU" or self.settings[name].get("activation") in ("relu", "relu6")


def _sources(entry: Mapping[str, Any]) -> list[str]:
    """Return the names of the layers that one takes from."""
    nodes = entry["inbound_nodes"]
    histories = list(_histories([node["args"] for node in nodes]))
    if len(nodes) > 1 or any(tuple(h[1:]) != (0, 0) for h in histories):
        raise ModelError(f"layer {entry['name']} is used {len(nodes)} times", "once, with one output")
    return [h[0] for h in histories]


def _histories(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            yield value["config"]["keras_history"]
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _histories(item)


def _only(ends: Any) -> str:
    """Return the layer at the network's one input or output: ``[name, 0, 0]``, in a list or not."""
    if ends and not isinstance(ends[0], str):
        if len(ends) != 1:
            raise ModelError(f"a network of {len(ends)} inputs or outputs", "one")
        ends = ends[0]
    return str(ends[0])


def write_graph(network: keras.Model) -> onnx.ModelProto:
    """Translate a network whose BatchNorms after convolutions are folded (`exporters.keras.fold_batchnorm`).

    Parameters
    ----------
    network : keras.Model
        (n, rows, columns, channels) -> logits (n, rows, columns, classes).

    Returns
    -------
    ModelProto
        ``image`` (n, channels, rows, columns) -> ``logits`` (n, classes, rows, columns) of any size.

    Raises
    ------
    ModelError
        If a layer has no translation.
    """
    writer = _Writer(network)
    for name in writer.layers.kinds:
        writer.add(name)
    channels, classes = network.inputs[0].shape[-1], network.outputs[0].shape[-1]
    graph = helper.make_graph(
        writer.nodes,
        "network",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["n", channels, "rows", "columns"])],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["n", classes, "rows", "columns"])],
        [numpy_helper.from_array(value, name) for name, value in writer.constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


class _Writer:
    """Collects nodes and constants; a layer's tensor bears its name."""

    def __init__(self, network: keras.Model) -> None:
        self.network, self.layers = network, Layers(network)
        self.folded = self.layers.pairs()
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray[Any, Any]] = {}
        self.tensors = {self.layers.input: INPUT}
        self.pads: dict[str, list[int]] = {}

    def add(self, name: str) -> None:
        """Add a layer."""
        kind, settings = self.layers.kinds[name], self.layers.settings[name]
        if kind not in _TRANSLATIONS:
            raise ModelError(f"layer {name} of kind {kind}", f"one of {', '.join(sorted(_TRANSLATIONS))}")
        if settings.get("data_format", "channels_last") != "channels_last":
            raise ModelError(f"layer {name} with channels first", "channels last")
        inputs = [self.tensors[source] for source in self.layers.sources[name]]
        _TRANSLATIONS[kind](self, name, settings, inputs)

    def node(self, op: str, inputs: list[str], name: str, **attributes: Any) -> None:
        """Add a node that gives a layer's tensor."""
        self.tensors[name] = LOGITS if name == self.layers.output else name
        self.nodes.append(helper.make_node(op, inputs, [self.tensors[name]], name=name, **attributes))

    def constant(self, name: str, value: Any, dtype: Any = np.float32) -> str:
        """Keep a constant, and return its name."""
        self.constants[name] = np.ascontiguousarray(value, dtype)
        return name

    def same(self, name: str, _: Any, inputs: list[str]) -> None:
        """Add nothing: in evaluation the layer gives what it gets."""
        if name == self.layers.output:
            self.node("Identity", inputs, name)
        elif inputs:
            self.tensors[name] = inputs[0]

    def convolution(self, name: str, settings: Any, inputs: list[str]) -> None:
        """Add a convolution of any kind, with what the folded BatchNorm adds and its activation."""
        layer, kind = self.network.get_layer(name), self.layers.kinds[name]
        kernel = np.asarray(layer.kernel)
        attributes = {"kernel_shape": kernel.shape[:2], "strides": settings["strides"]}
        if kind == "Conv2DTranspose":
            weight = kernel.transpose(3, 2, 0, 1)
            attributes |= _transposed(name, settings)
        else:
            attributes |= {"dilations": settings["dilation_rate"]} | self._padding(name, settings)
            attributes["group"] = kernel.shape[2] if kind == "DepthwiseConv2D" else settings["groups"]
            weight = (
                kernel.transpose(2, 3, 0, 1) if kind == "DepthwiseConv2D" else kernel.transpose(3, 2, 0, 1)
            )
            if kind == "DepthwiseConv2D":
                weight = weight.reshape(-1, 1, *kernel.shape[:2])
        bias = np.asarray(layer.bias) if layer.use_bias else 0
        if name in self.folded:
            bias = bias + np.asarray(self.network.get_layer(self.folded[name]).beta)
        operands = [*inputs, self.constant(f"{name}.weight", weight)]
        if np.ndim(bias):
            operands.append(self.constant(f"{name}.bias", bias))
        op = "ConvTranspose" if kind == "Conv2DTranspose" else "Conv"
        self.activated(op, operands, name, settings["activation"], **attributes)

    def activated(self, op: str, inputs: list[str], name: str, activation: Any, **attributes: Any) -> None:
        """Add a node and the activation that its layer has built in."""
        if activation == "linear":
            self.node(op, inputs, name, **attributes)
        else:
            before = f"{name}.linear"
            self.nodes.append(helper.make_node(op, inputs, [before], name=before, **attributes))
            self.activation(name, {"activation": activation}, [before])

    def activation(self, name: str, settings: Any, inputs: list[str]) -> None:
        """Add one of the activations that piecewise straight lines make."""
        kind = settings["activation"]
        if kind == "linear":
            self.same(name, settings, inputs)
        elif kind == "relu":
            self.node("Relu", inputs, name)
        elif kind == "relu6":
            self._clip(name, 6.0, inputs)
        else:
            raise ModelError(f"layer {name} with activation {kind}", "linear, relu or relu6")

    def relu(self, name: str, settings: Any, inputs: list[str]) -> None:
        """Add a ReLU, cut above or not."""
        if settings["negative_slope"] or settings["threshold"]:
            raise ModelError(f"layer {name}: a ReLU with slope or threshold", "neither")
        if settings["max_value"] is None:
            self.node("Relu", inputs, name)
        else:
            self._clip(name, float(settings["max_value"]), inputs)

    def _clip(self, name: str, high: float, inputs: list[str]) -> None:
        limits = [self.constant("clip.0", 0.0), self.constant(f"clip.{high:g}", high)]
        self.node("Clip", [*inputs, *limits], name)

    def normalisation(self, name: str, settings: Any, inputs: list[str]) -> None:
        """Add a BatchNorm that no convolution has taken in."""
        if name in self.folded.values():
            self.same(name, settings, inputs)
            return
        layer = self.network.get_layer(name)
        mean = np.asarray(layer.moving_mean)
        values = {
            "scale": layer.gamma if settings["scale"] else np.ones_like(mean),
            "bias": layer.beta if settings["center"] else np.zeros_like(mean),
            "mean": mean,
            "variance": layer.moving_variance,
        }
        constants = [self.constant(f"{name}.{part}", np.asarray(v)) for part, v in values.items()]
        self.node("BatchNormalization", [*inputs, *constants], name, epsilon=settings["epsilon"])

    def padding(self, name: str, settings: Any, inputs: list[str]) -> None:
        """Add zeros around, or leave that to what comes next."""
        (top, bottom), (left, right) = settings["padding"]
        if self.layers.pads_within(name):
            self.pads[name] = [top, left, bottom, right]
            self.same(name, settings, inputs)
            return
        pads = self.constant(f"{name}.pads", [0, 0, top, left, 0, 0, bottom, right], np.int64)
        self.node("Pad", [*inputs, pads], name)

    def pooling(self, name: str, settings: Any, inputs: list[str]) -> None:
        """Add a MaxPool."""
        shape = {"kernel_shape": settings["pool_size"], "strides": settings["strides"]}
        self.node("MaxPool", inputs, name, **shape, **self._padding(name, settings))

    def upsampling(self, name: str, settings: Any, inputs: list[str]) -> None:
        """Add a Resize that repeats pixels."""
        if settings["interpolation"] != "nearest":
            raise ModelError(f"layer {name} with interpolation {settings['interpolation']}", "nearest")
        rows, columns = settings["size"]
        scales = self.constant(f"upsampling.{rows}.{columns}", [1, 1, rows, columns])
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}
        self.node("Resize", [*inputs, "", scales], name, **how)

    def sum(self, name: str, _: Any, inputs: list[str]) -> None:
        """Add the sum of tensors."""
        self.node("Add" if len(inputs) == 2 else "Sum", inputs, name)

    def concatenation(self, name: str, settings: Any, inputs: list[str]) -> None:
        """Add tensors one after another, by channels."""
        if settings["axis"] not in (-1, 3):
            raise ModelError(f"layer {name} along axis {settings['axis']}", "channels")
        self.node("Concat", inputs, name, axis=1)

    def _padding(self, name: str, settings: Any) -> dict[str, Any]:
        """Return how a convolution or pooling pads: TensorFlow's odd pixel is the last one."""
        if settings["padding"] == "valid":
            return {"pads": self.pads.get(self.layers.sources[name][0], [0, 0, 0, 0])}
        sizes = settings.get("kernel_size")
        if sizes is None or any(s != 1 for s in settings["strides"]):
            return {"auto_pad": "SAME_UPPER"}
        totals = [d * (k - 1) for k, d in zip(sizes, settings["dilation_rate"], strict=True)]
        return {"pads": [t // 2 for t in totals] + [t - t // 2 for t in totals]}


def _transposed(name: str, settings: Any) -> dict[str, Any]:
    """Return how a transposed convolution cuts its result to a multiple of the image."""
    if settings["output_padding"] is not None or tuple(settings["dilation_rate"]) != (1, 1):
        raise ModelError(f"layer {name} with output padding or dilation", "neither")
    sizes = list(zip(settings["kernel_size"], settings["strides"], strict=True))
    totals = [max(k - s, 0) if settings["padding"] == "same" else 0 for k, s in sizes]
    return {
        "pads": [t // 2 for t in totals] + [t - t // 2 for t in totals],
        "output_padding": [max(s - k, 0) for k, s in sizes],
    }


Translation = Callable[[_Writer, str, Any, list[str]], None]
_TRANSLATIONS: Mapping[str, Translation] = MappingProxyType(
    {
        "InputLayer": _Writer.same,
        "Dropout": _Writer.same,
        "SpatialDropout2D": _Writer.same,
        **dict.fromkeys(CONVOLUTIONS, _Writer.convolution),
        "BatchNormalization": _Writer.normalisation,
        "Activation": _Writer.activation,
        "ReLU": _Writer.relu,
        "ZeroPadding2D": _Writer.padding,
        "MaxPooling2D": _Writer.pooling,
        "UpSampling2D": _Writer.upsampling,
        "Add": _Writer.sum,
        "Concatenate": _Writer.concatenation,
    }
)
