"""Everything that lls raises on purpose.

::

    LlsError                1   anything of ours
    ├── UsageError          2   an option or argument makes no sense
    │   └── MissingPackageError   an optional package is not installed
    ├── ScanError           3   the scan is unreadable or ambiguous
    ├── GeometryError       4   the scan's geometry is refused
    ├── ModelError          5   the model is missing or broken
    ├── DeviceError         6   the device that was asked for is not there
    ├── MemoryLimitError    7   not enough memory
    ├── QualityError        8   a quality check failed under ``--strict``
    ├── BatchError          9   some of several inputs failed
    └── OutputError        10   the output cannot be written

The number is the exit code of the command line.
"""

from typing import ClassVar


class LlsError(Exception):
    """What was found, what was expected, what to do.

    Parameters
    ----------
    found : str
        What is the case, with the offending value or file name.
    expected : str, optional
        What would have been right.
    fix : str, optional
        What the user can do about it.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, found: str, expected: str = "", fix: str = "") -> None:
        super().__init__(found, expected, fix)
        self.found, self.expected, self.fix = found, expected, fix

    def __str__(self) -> str:
        lines = [self.found]
        if self.expected:
            lines.append(f"expected: {self.expected}")
        if self.fix:
            lines.append(f"what to do: {self.fix}")
        return "\n".join(lines)


class UsageError(LlsError):
    """An option or argument makes no sense."""

    exit_code = 2


class MissingPackageError(UsageError):
    """An optional package is not installed."""


class ScanError(LlsError):
    """The scan is unreadable or ambiguous."""

    exit_code = 3


class GeometryError(LlsError):
    """The scan's geometry is refused."""

    exit_code = 4


class ModelError(LlsError):
    """The model is missing or broken."""

    exit_code = 5


class DeviceError(LlsError):
    """The device that was asked for is not there."""

    exit_code = 6


class MemoryLimitError(LlsError):
    """Not enough memory."""

    exit_code = 7


class QualityError(LlsError):
    """A quality check failed under ``--strict``."""

    exit_code = 8


class BatchError(LlsError):
    """Some of several inputs failed."""

    exit_code = 9


class OutputError(LlsError):
    """The output cannot be written."""

    exit_code = 10


def install_hint(extras: str) -> str:
    """Return how an extra is installed: lls is in no package index, but in the folder that was downloaded."""
    return f"pip install '.[{extras}]' in the folder of lls"
