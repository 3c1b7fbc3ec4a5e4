"""A PyTorch network that learns."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from seg_core.errors import DeviceError, ModelError, UsageError
from trainers.config import TrainConfig, check_same_network
from trainers.loop import Images, Labels
from trainers.model_file import model_file, network_of, read_model
from trainers.torch import NETWORKS, checkpoint
from trainers.torch.average import Average
from trainers.torch.from_model import fill, unfold
from trainers.torch.losses import LOSSES
from trainers.torch.network import build_network

FIRST, FINE = "unet-resnet34", "unet-resnet34-fine"
"""The network of checkpoints that do not name theirs, and the one that can begin with its weights."""


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Take numbers next to zero for zero, in this thread: where there is air a CPU would compute for ages."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


class TorchEngine:
    """A network with its loss and Adam; see `trainers.loop.Engine`."""

    def __init__(self, config: TrainConfig, classes: tuple[str, ...]) -> None:
        self.config, self.classes = config, classes
        self.device = _device(config.device)
        if config.threads:
            torch.set_num_threads(config.threads)
        with flushed_denormals():
            torch.ones(1 << 20).add_(
                1
            )  # starts torch's threads, which keep the mode of the one that starts them
        torch.manual_seed(config.seed)
        self.network, self._folded = _first_network(config, classes)
        if config.freeze_encoder:
            freeze_encoder(self.network)
        self._layout = torch.channels_last if config.patch is None else torch.channels_last_3d
        self.network.to(self.device, memory_format=self._layout)  # type: ignore[call-overload]
        self.optimizer = torch.optim.Adam(
            (p for p in self.network.parameters() if p.requires_grad),
            lr=config.lr,
            fused=True,
        )
        self.loss = LOSSES[config.loss]
        self.average = Average(self.network, config.average) if config.average else None
        self.autocast = computes_bfloat16(self.device)

    @flushed_denormals()
    def step(self, images: Images, labels: Labels, lr: float) -> float:
        """Learn from a batch; return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        x = self._inputs(images)
        if self._folded:
            unfold(self.network, self._folded, x)
            self._folded = []
            self._average_anew()
        self.network.train()
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self._outputs(x), torch.from_numpy(labels).to(self.device))
        loss.backward()  # type: ignore[no-untyped-call]
        value = float(loss.detach())
        if np.isfinite(value):
            self.optimizer.step()
            if self.average is not None:
                self.average.follow(self.network)
        return value

    @torch.inference_mode()
    def evaluate(self, images: Images, labels: Labels) -> tuple[float, Labels]:
        """Return the loss of a batch and the class of each pixel."""
        logits = self._judged(images)
        loss = float(self.loss(logits, torch.from_numpy(labels).to(self.device)))
        return loss, _classes(logits)

    @torch.inference_mode()
    def predict(self, images: Images) -> Labels:
        """Return the class of each pixel."""
        return _classes(self._judged(images))

    def parameters(self) -> tuple[int, int]:
        """Return how many parameters the network has, and how many of them learn."""
        every = list(self.network.parameters())
        return sum(p.numel() for p in every), sum(p.numel() for p in every if p.requires_grad)

    @torch.inference_mode()
    def logits(self, images: Images) -> Images:
        """Return the network's output, float32 (n, classes + 1, *space)."""
        logits: Images = self._judged(images).float().cpu().numpy()
        return logits

    def save(self, path: Path, facts: dict[str, Any], resumable: bool) -> None:
        """Write network and facts."""
        state = facts | {"network": self._kept().state_dict()}
        if resumable:
            state["network"] = self.network.state_dict()
            if self.average is not None:
                state["average"] = self.average.state()
            state |= {"optimizer": self.optimizer.state_dict(), "rng": torch.get_rng_state()}
            if self.device.type == "cuda":
                state["cuda_rng"] = torch.cuda.get_rng_state(self.device)
        checkpoint.save(state, path)

    def load(self, path: Path) -> dict[str, Any]:
        """Take over a resumable checkpoint."""
        facts = checkpoint.load(path)
        if tuple(facts["classes"]) != self.classes:
            raise UsageError(f"classes {self.classes}", f"{facts['classes']}, with which the training began")
        _fill(self.network, facts.pop("network"), path)
        self._average_anew()
        averaged = facts.pop("average", None)
        if self.average is not None and averaged is not None:
            self.average.restore(averaged)
        try:
            self.optimizer.load_state_dict(facts.pop("optimizer"))
        except ValueError as error:
            raise UsageError(
                f"{path}: other layers learned ({error})", fix="give or leave out --freeze-encoder as before"
            ) from error
        self._folded = []
        torch.set_rng_state(facts.pop("rng"))
        drawn = facts.pop("cuda_rng", None)
        if drawn is not None and self.device.type == "cuda":
            torch.cuda.set_rng_state(drawn, self.device)
        return facts

    def _inputs(self, images: npt.NDArray[np.float32]) -> torch.Tensor:
        """Return the images as the network takes them."""
        NETWORKS[self.config.network].check_size(images.shape[2:])
        x = torch.from_numpy(images).to(self.device, non_blocking=True)
        x = x.expand(-1, self.config.channels, *x.shape[2:])
        return x.contiguous(memory_format=self._layout)

    def _outputs(self, x: torch.Tensor, network: torch.nn.Module | None = None) -> Any:
        """Return what the network gives: logits, while training perhaps several of them."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return (network or self.network)(x)

    def _judged(self, images: Images) -> torch.Tensor:
        """Return the logits of the network that is kept."""
        logits: torch.Tensor = self._outputs(self._inputs(images), self._kept().eval())
        return logits

    def _kept(self) -> torch.nn.Module:
        return self.network if self.average is None else self.average.network

    def _average_anew(self) -> None:
        if self.average is not None:
            self.average = Average(self.network, self.config.average)


def _classes(logits: torch.Tensor) -> Labels:
    """Return the class of each pixel in NumPy."""
    found: Labels = logits.argmax(1).to(torch.uint8).cpu().numpy()
    return found


def load_best(path: Path) -> tuple[torch.nn.Module, dict[str, Any]]:
    """Read a checkpoint as a network in evaluation mode, and the facts beside it.

    Raises
    ------
    ModelError
        If it cannot be read or does not fit the network.
    """
    facts = checkpoint.load(path)
    config = facts["config"]
    network = _build(config, len(facts["classes"]) + 1)
    weights = facts.pop("network")
    averaged = facts.pop("average", None)
    _fill(network, weights if averaged is None else averaged["network"], path)
    return network.eval(), facts


def computes_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 in hardware; emulated it would be slower than float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    abilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16"))


def freeze_encoder(network: torch.nn.Module) -> None:
    """Keep an encoder's convolutions as they are; its normalisations stay free, as in the report's Figure 11.

    Raises
    ------
    UsageError
        If the network has no encoder.
    """
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, torch.nn.Module):
        raise UsageError("a network without an encoder cannot freeze it", fix="train all of it")
    for module in encoder.modules():
        if isinstance(module, torch.nn.modules.conv._ConvNd | torch.nn.Linear):
            module.requires_grad_(False)


def _first_network(config: TrainConfig, classes: tuple[str, ...]) -> tuple[torch.nn.Module, list[str]]:
    """Build the network that a training begins with; name the BatchNorms that a model file has folded."""
    _check_patch(config)
    outputs, known = len(classes) + 1, vars(config)
    if config.init in ("random", "imagenet"):
        return _build(known, outputs, config.init), []
    model = model_file(config.init)
    if model is not None:
        return _from_model(config, classes, model)
    path = Path(config.init)
    if "network" not in checkpoint.read(path):  # an encoder's weights, not a training's
        return _build(known, outputs, config.init), []
    network, facts = load_best(path)
    theirs = facts["config"]
    found = {"network": theirs.get("network", FIRST), "patch": theirs.get("patch")}
    check_same_network(
        config, classes, found | {"channels": theirs["channels"], "classes": tuple(facts["classes"])}
    )
    return network, []


def _check_patch(config: TrainConfig) -> None:
    """Refuse a patch for a network that sees slices."""
    known = NETWORKS.get(config.network)
    if known is not None and config.patch is not None and "patch" not in known.defaults:
        raise UsageError(
            f"{config.network} on patches of {' x '.join(map(str, config.patch))}",
            "slices, which this network sees",
            "leave --patch out, or name a network of patches: --network nnunet-3d",
        )


def _build(config: Mapping[str, Any], classes: int, weights: str = "random") -> torch.nn.Module:
    """Build a configuration's network."""
    size = {"patch": tuple(config["patch"])} if config.get("patch") else {}
    return build_network(config.get("network", FIRST), classes, config["channels"], weights, **size)


def _from_model(
    config: TrainConfig, classes: tuple[str, ...], path: Path
) -> tuple[torch.nn.Module, list[str]]:
    spec, weights = read_model(path)
    if config.network == FINE and network_of(spec) == FIRST and spec.channel_fill == "repeat":
        from trainers.torch.fine import widened

        weights, spec = widened(weights, config.channels), replace(spec, channels=config.channels)
    if (spec.classes, spec.channels) != (classes, config.channels):
        raise UsageError(
            f"{path.name} for {', '.join(spec.classes)} from {spec.channels} channels",
            f"{', '.join(classes)} from {config.channels}",
        )
    network = _build(vars(config), len(classes) + 1)
    return network, fill(network, weights, path)


def _fill(network: torch.nn.Module, weights: dict[str, torch.Tensor], path: Path) -> None:
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:  # it names every tensor, which nobody reads
        raise ModelError(
            f"{path} holds the weights of another network", "those of this network", "name its own file"
        ) from error


def _device(name: str) -> torch.device:
    """Return the device that is meant.

    Raises
    ------
    DeviceError
        If it is not there.
    """
    cuda = name != "cpu" and torch.cuda.is_available()
    if name == "cuda" and not cuda:
        raise DeviceError("PyTorch finds no GPU", fix="train on the cpu, or install torch for your CUDA")
    return torch.device("cuda" if cuda else "cpu")
