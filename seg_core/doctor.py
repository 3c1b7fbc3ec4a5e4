"""What this machine has for a network: devices, precisions, which are taken, and what stands in the way."""

import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from seg_core.errors import LlsError, ModelError
from seg_core.precision import FASTEST, multiplies_bytes
from seg_core.runner import Device, Runner
from seg_core.runtime import installed_runtimes, offered_devices


@dataclass(frozen=True)
class Choice:
    """One way to run the network.

    Parameters
    ----------
    device, precision : str
    possible : bool
        Whether it was opened.
    detail : str
        Of one that was: how well its labels agree with fp32; else why not, and what to do.
    """

    device: str
    precision: str
    possible: bool
    detail: str


@dataclass(frozen=True)
class Examination:
    """What was found.

    Parameters
    ----------
    machine : str
        System, processor, cores.
    bytes_exact : bool
        Whether the processor has instructions for 8-bit integers.
    runtimes : mapping of str to str
        Packages of ONNX Runtime and their versions; more than one overwrite each other.
    choices : tuple of Choice
        Every device with every precision that it may have.
    taken : tuple of str
        Device and precision that ``auto`` takes, and why; nothing where none runs.
    problems : tuple of str
        What stands in the way of all.
    """

    machine: str
    bytes_exact: bool
    runtimes: dict[str, str]
    choices: tuple[Choice, ...]
    taken: tuple[str, ...]
    problems: tuple[str, ...]


def examine(model: Path | str = "default") -> Examination:
    """Try every way to run a network, and say which one is taken; a device that does not run it is no error.

    Parameters
    ----------
    model : Path or str
        Its file, or ``"default"``.

    Raises
    ------
    ModelError
        If the file is not there or no model.
    """
    choices: list[Choice] = []
    taken: tuple[str, ...] = ()
    problems: list[str] = []
    try:
        offered = offered_devices()
        for device in get_args(Device)[1:]:
            choices += [
                _try(model, device, p) for p in ("fp32", FASTEST[device])[: 2 if device in offered else 1]
            ]
        runner = Runner(model)
        taken = runner.device, runner.precision, runner.why
    except ModelError:
        raise
    except LlsError as error:
        problems.append(str(error))
    machine = f"{platform.system()}, {platform.machine()}, {os.cpu_count()} cores"
    machine += f", Python {platform.python_version()}"
    return Examination(
        machine, multiplies_bytes(), installed_runtimes(), tuple(choices), taken, tuple(problems)
    )


def _try(model: Path | str, device: Device, precision: str) -> Choice:
    """Open the network in one way."""
    try:
        runner = Runner(model, device, precision=precision)  # type: ignore[arg-type]
    except LlsError as error:
        return Choice(device, precision, False, f"{error.found}; {error.fix}" if error.fix else error.found)
    twin = runner.spec.twin
    if twin is None:
        return Choice(device, precision, True, "")
    name, least = min(twin.agreement.items(), key=lambda item: item[1])
    return Choice(device, precision, True, f"agrees with fp32: DSC {least:.4f} at least ({name})")
