"""A virtual environment beside the checkout, made with the standard library alone."""

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def prepare(folder: Path, extras: str) -> Path:
    """Make the environment if it is not there, install lls into it, and return its folder of programs."""
    if sys.version_info < (3, 11):
        sys.exit(f"Python {sys.version.split()[0]} found; lls needs 3.11 or newer")
    programs = folder / ("Scripts" if sys.platform == "win32" else "bin")
    if not (programs / ("python.exe" if sys.platform == "win32" else "python")).exists():
        print(f"making {folder.name}", flush=True)
        venv.create(folder, with_pip=True)
    print(f"installing lls[{extras}] into {folder.name}", flush=True)
    run(programs / "python", "-m", "pip", "install", "-q", "-c", "constraints.txt", "-e", f".[{extras}]")
    return programs


def run(*command: object) -> None:
    """Run a command in the checkout; end with its exit code if it fails."""
    code = subprocess.call([str(part) for part in command], cwd=ROOT)
    if code:
        sys.exit(code)
