"""Whose scan it is: read and shown only where the user asks for it."""

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_FIELDS = {
    "PatientName": "Name",
    "PatientID": "Patient ID",
    "PatientBirthDate": "Born",
    "StudyDate": "Scanned",
}
_LOOK_AT = 50  # files, of which one is DICOM as a rule


def patient_facts(path: Path) -> dict[str, str]:
    """Return what the first DICOM file says of the patient; empty where nothing does."""
    import pydicom
    from pydicom.errors import InvalidDicomError

    for file in _candidates(path):
        try:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(_FIELDS))
        except (InvalidDicomError, OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
            continue
        found = {label: str(header.get(name, "") or "") for name, label in _FIELDS.items()}
        return {label: text.replace("^", " ").strip() for label, text in found.items() if text}
    return {}


def without_uid(text: str, series: str | None) -> str:
    """Return a text without the UID that a series was asked for by, if it was: it leads to the patient."""
    uid = (series or "").partition(":")[0]
    return text.replace(uid, "…") if "." in uid else text


def _candidates(path: Path) -> Iterator[Path | IO[bytes]]:
    if path.is_dir():
        files = (file for file in sorted(path.rglob("*")) if file.is_file())
        yield from (file for _, file in zip(range(_LOOK_AT), files, strict=False))
    elif path.suffix.lower() == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                members = [member for member in archive.infolist() if not member.is_dir()]
                for member in members[:_LOOK_AT]:
                    if member.file_size < 2**28:
                        with archive.open(member) as file:
                            yield file
        except (zipfile.BadZipFile, OSError, RuntimeError):
            return
    else:
        yield path
