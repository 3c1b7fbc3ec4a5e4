"""Five scanners' looks from physics: tissue parameters and signal equations, none of them training's own.

Relaxation times at 1.5 T: Gold et al., Musculoskeletal MRI at 3.0 T: relaxation times and image contrast, AJR
2004 (muscle, cartilage, fluid, fat, marrow); blood: Stanisz et al., MRM 2005. At 0.55 T T1 is shorter by
(0.55 / 1.5) ** 0.33 in water, as Bottomley et al. found, Medical Physics 1984. Attenuation: the usual
Hounsfield units. Proton densities and the rest are round numbers.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from seg_core.errors import UsageError
from seg_core.geometry import Volume
from trainers.draw import Plane, draw_tissue, true_labels
from trainers.phantom import Phantom, PhantomConfig, make_phantom, name_series, place, write_phantom
from trainers.soft_tissue import Tissue

FloatArray = npt.NDArray[np.float32]
DRAWING = 1
"""The ``schema`` that `trainers.phantom.place` writes. A change of a drawing that moves a frozen set, which
`tests/benchmarks/test_frozen_drawings.py` notices, raises both by hand; kept scans are refused then."""


@dataclass(frozen=True)
class Protons:
    """Water's density (share of pure water), T1 and T2 in ms at 1.5 T; the share of fat beside it; HU."""

    water: float
    t1: float
    t2: float
    fat: float
    hounsfield: float


_FAT_T1, _FAT_T2 = 288.0, 165.0
PROPERTIES = {
    Tissue.AIR: Protons(0.0, 1000, 10, 0.0, -1000),
    Tissue.SKIN: Protons(0.65, 800, 30, 0.1, 60),
    Tissue.FAT: Protons(0.08, 900, 40, 0.9, -100),
    Tissue.MUSCLE: Protons(0.78, 1130, 35, 0.03, 55),
    Tissue.FASCIA: Protons(0.35, 1000, 20, 0.4, -10),
    Tissue.VESSEL: Protons(0.85, 1441, 290, 0.0, 45),
    Tissue.CORTEX: Protons(0.15, 250, 0.5, 0.02, 1300),
    Tissue.MARROW: Protons(0.10, 900, 40, 0.85, 60),
    Tissue.RED_MARROW: Protons(0.45, 950, 40, 0.45, 220),
    Tissue.CARTILAGE: Protons(0.75, 1060, 42, 0.0, 90),
    Tissue.FLUID: Protons(0.98, 2850, 1210, 0.0, 10),
    Tissue.ORGAN: Protons(0.80, 950, 60, 0.03, 40),
    Tissue.TENDON: Protons(0.60, 600, 2.0, 0.02, 80),
}


@dataclass(frozen=True)
class ScannerLook:
    """A scanner and its sequence.

    Parameters
    ----------
    sequence : {"spin_echo", "gradient_echo", "attenuation"}
        Which equation.
    tr_ms, te_ms, flip_degrees : float
        Of the sequence.
    fat : float
        Share of fat's signal that is left: 0 fat suppressed or separated, 1 as it is.
    t1_factor : float
        On water's T1, for another field than 1.5 T.
    vessel : float
        Factor on the signal of vessels: below 1 flow voids, above 1 inflow.
    size, pixel_mm : int, float
        Rows and columns, and their distance.
    acquired : float
        Share of the matrix that was acquired along each axis; the rest is zero-filled.
    noise : float
        SD of each part of the complex noise, of the muscle's signal, over the whole matrix; the image keeps
        ``acquired`` of it, since zero-filling drops the rest. In HU, and whole, for attenuation.
    shading : float
        Strength of the coil's shading: SD of the coefficients of the five polynomials, from -1 to 1 across
        the slice, that make its natural logarithm.
    scale : float
        Stored value of the brightest tissue.
    """

    sequence: Literal["spin_echo", "gradient_echo", "attenuation"]
    tr_ms: float = 0.0
    te_ms: float = 0.0
    flip_degrees: float = 90.0
    fat: float = 1.0
    t1_factor: float = 1.0
    vessel: float = 1.0
    size: int = 512
    pixel_mm: float = 0.9375
    acquired: float = 0.8
    noise: float = 0.03
    shading: float = 0.25
    scale: float = 900.0


LOOKS = {
    "water_dixon": ScannerLook("gradient_echo", 6.7, 2.4, 12.0, fat=0.04, vessel=1.3, noise=0.04),
    "t1": ScannerLook("spin_echo", 550, 12, fat=1.0, vessel=0.2, size=448, pixel_mm=0.95, scale=1500),
    "pd_fat_suppressed": ScannerLook(
        "spin_echo", 3200, 38, fat=0.07, vessel=0.3, size=400, pixel_mm=1.05, scale=620, shading=0.35
    ),
    "low_field_in_phase": ScannerLook(
        "gradient_echo", 30, 12.5, 30.0, t1_factor=0.72, size=288, pixel_mm=1.45, noise=0.12, scale=240
    ),
    "ct": ScannerLook("attenuation", size=512, pixel_mm=0.85, noise=22.0),
}


def signal(look: ScannerLook) -> FloatArray:
    """Return the noise-free signal of each tissue (tissues,); in HU for attenuation."""
    values = []
    for tissue in Tissue:
        p = PROPERTIES[tissue]
        if look.sequence == "attenuation":
            values.append(p.hounsfield)
            continue
        water = p.water * _echo(look, p.t1 * look.t1_factor, p.t2)
        fat = p.fat * look.fat * _echo(look, _FAT_T1, _FAT_T2)
        values.append((water + fat) * (look.vessel if tissue == Tissue.VESSEL else 1.0))
    return np.array(values, np.float32)


def _echo(look: ScannerLook, t1: float, t2: float) -> float:
    """Signal of a spin echo, or of a spoiled gradient echo with T2* = 0.6 T2."""
    e1 = np.exp(-look.tr_ms / t1)
    if look.sequence == "spin_echo":
        return float((1 - e1) * np.exp(-look.te_ms / t2))
    a = np.radians(look.flip_degrees)
    return float(np.sin(a) * (1 - e1) / (1 - np.cos(a) * e1) * np.exp(-look.te_ms / (0.6 * t2)))


def scan_person(config: PhantomConfig, look: ScannerLook, threads: int = 2) -> Phantom:
    """Scan a person of ``lls phantom``, on the configuration's slices and the look's own pixels, axial."""
    anatomy, geometry, drawing, facts = place(config)
    acquisition = _Acquisition(look, geometry.shape[1], config.seed)
    out = np.empty(geometry.shape[::-1], np.int16)

    def one(k: int, planes: list[Plane]) -> None:
        out[k] = acquisition.slice(planes, k, geometry.shape[2])

    draw_tissue(anatomy, geometry, drawing, one, threads)
    volume = Volume(out.T, geometry)
    # The look of the drawing had no part in it.
    config_facts = {name: value for name, value in facts["config"].items() if name != "contrast"}
    body = {name: value for name, value in facts["drawing"].items() if name != "look"}
    facts = {**facts, "config": config_facts, "drawing": body, "look": asdict(look)}
    series = name_series(facts, anatomy, **_headers(look))
    return Phantom(volume, true_labels(anatomy, geometry), anatomy, facts, series)


def keep_scan(config: PhantomConfig, folder: Path, look: ScannerLook | None = None) -> Path:
    """Write a person's scan with its truth where it is not there yet.

    Parameters
    ----------
    config : PhantomConfig
        Who is scanned, and how.
    folder : Path
        Of this scan alone.
    look : ScannerLook, optional
        The scanner; without one as ``lls phantom`` draws it.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    UsageError
        If something else is there, or it was drawn by an earlier code that drew otherwise.
    """
    if not folder.exists():
        write_phantom(make_phantom(config) if look is None else scan_person(config, look), folder)
    file = folder / "phantom.json"
    facts = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    if not _holds(facts, config, look):
        raise UsageError(f"{folder} holds another scan", "the one that is asked for", "name a new folder")
    if (drawing := facts.get("schema", 1)) != DRAWING:
        raise UsageError(f"{folder} holds a scan of drawing {drawing}", f"{DRAWING}", "name a new folder")
    return folder


def _holds(facts: Mapping[str, Any], config: PhantomConfig, look: ScannerLook | None) -> bool:
    if "config" not in facts:
        return False
    # What an earlier configuration did not name was as it now is by default.
    wanted, there = asdict(config), asdict(PhantomConfig()) | facts["config"]
    if look is not None:
        del wanted["contrast"], there["contrast"]  # no part of a scanner's look
    return bool(there == wanted and facts.get("look") == (look and asdict(look)))


def _headers(look: ScannerLook) -> dict[str, Any]:
    """Return what DICOM headers say of a look, as `SeriesInfo` takes it."""
    if look.sequence == "attenuation":
        none = dict.fromkeys(("repetition_time_ms", "echo_time_ms", "flip_degrees", "tesla"))
        image_type = ("DERIVED", "SECONDARY", "OTHER")
        return {"description": "attenuation phantom", "image_type": image_type, "sequence": "RM", **none}
    spin_echo, suppressed = look.sequence == "spin_echo", look.fat < 0.5
    water = suppressed and not spin_echo  # a gradient echo's fat is separated, as by Dixon
    name = look.sequence.replace("_", " ") + (" water" if water else " fat suppressed" if suppressed else "")
    return {
        "description": f"{name} phantom, TR {look.tr_ms:g}, TE {look.te_ms:g}",
        "image_type": ("ORIGINAL", "PRIMARY", "M", *(["WATER"] if water else [])),
        "sequence": "SE" if spin_echo else "GR",
        "repetition_time_ms": look.tr_ms,
        "echo_time_ms": look.te_ms,
        "flip_degrees": look.flip_degrees,
        "tesla": round(1.5 * look.t1_factor ** (1 / 0.33), 2),
    }


class _Acquisition:
    """Slices of one scan, the same in whatever order they are asked for."""

    def __init__(self, look: ScannerLook, size: int, seed: int) -> None:
        rng = np.random.default_rng([seed, 77])
        self.look, self.seed = look, seed
        self.levels = signal(look)
        self.shades = rng.normal(1, 0.04, 256).astype(np.float32)
        self.shades[0] = 1
        grid = np.linspace(-1, 1, size)
        x, y = np.meshgrid(grid, grid)
        self.basis = np.stack([x, y, x * y, x * x - y * y, x * x + y * y])
        self.polynomial = rng.normal(0, look.shading, (2, 5))
        kept = np.abs(np.fft.fftfreq(size)) <= look.acquired / 2
        self.kept = kept[:, None] & kept[None, :]

    def slice(self, planes: list[Plane], k: int, slices: int) -> npt.NDArray[np.int16]:
        rng = np.random.default_rng([self.seed, 78, k])
        made = np.mean([self.levels[t] * self.shades[s] for t, s in planes], axis=0)
        if self.look.sequence == "attenuation":
            blurred = np.fft.ifft2(np.fft.fft2(made) * self.kept).real
            return np.rint(blurred + rng.normal(0, self.look.noise, made.shape)).astype(np.int16)
        along = k / max(slices - 1, 1)
        coil = (1 - along) * self.polynomial[0] + along * self.polynomial[1]
        spectrum = np.fft.fft2(made * np.exp(np.tensordot(coil, self.basis, 1)))
        noise = self.look.noise * float(self.levels[Tissue.MUSCLE])
        white = rng.normal(0, noise, (2, *made.shape))
        spectrum = (spectrum + np.fft.fft2(white[0] + 1j * white[1])) * self.kept
        image = np.abs(np.fft.ifft2(spectrum)) * (self.look.scale / float(self.levels.max()))
        return np.rint(image).clip(0, 32767).astype(np.int16)
