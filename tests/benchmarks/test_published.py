"""The report's figures are those of the report."""

import re
from pathlib import Path

import pytest

from benchmarks.report.published import MEAN, PUBLISHED
from seg_core.labels import BONES

REPORT = Path(__file__).resolve().parents[2].parent / "shared" / "report.txt"
NAMES = {
    "2B": ("Resnet34", "Resnet50", "VGG19", "MobilenetV2"),
    "2C": ("Dice", "Categorical Cross Entropy", "Dice + Categorical Focal (Custom)"),
    "2D": ("$1e-4$", "$1e-5$", "Dynamic Learning Rate Schedule"),
}


@pytest.fixture(scope="module")
def report():
    if not REPORT.is_file():
        pytest.skip(f"the report is not here: {REPORT}")
    return REPORT.read_text(encoding="utf-8")


def value(number, row, structure, measure):
    return PUBLISHED[number].figures[row, structure][measure]


def spread(*place, digits=2):
    figure = value(*place)
    return f"{figure.mean:.{digits}f} ± {figure.sd:.{digits}f}"


@pytest.mark.parametrize("number", PUBLISHED)
def test_pages(report, number):
    assert re.search(rf"^TABLE {number} .*\D{PUBLISHED[number].page}$", report, re.MULTILINE)


def test_table_1(report):
    for row, structure in PUBLISHED["1"].figures:
        dsc, epoch, data = (value("1", row, structure, m).mean for m in ("dsc", "epoch", "data"))
        assert f"{row}\t{dsc:.2f}\t{epoch:.0f} s\t{data:.0f}%\n" in report


def test_table_2a(report):
    columns = ("pretrained", "random")
    for bone in BONES:
        cells = "\t".join(f"{value('2A', column, bone, 'dsc').mean:.2f}" for column in columns)
        assert f"{bone.capitalize()}\t{cells}\n" in report
    means = [f"{value('2A', column, MEAN, 'dsc').mean:.2f}" for column in columns]
    assert f"pre-trained U-Net model was {means[0]}, while" in report
    assert f"achieved a mean DSC of {means[1]}." in report


@pytest.mark.parametrize("number", NAMES)
def test_tables_of_means(report, number):
    found = [figures["dsc"].mean for figures in PUBLISHED[number].figures.values()]
    for name, dsc in zip(NAMES[number], found, strict=True):
        assert f"\n{name}\t{dsc:.2f}\n" in report


def test_table_3(report):
    networks = ("nnunet-2d", "nnunet-3d", "unet-resnet34", "unet-baseline")
    for bone in BONES:
        cells = [
            f"{spread('3', name, bone, 'dsc')}\t{spread('3', name, bone, 'volume_error_cm3', digits=1)}"
            for name in networks
        ]
        line = "\t".join((bone.capitalize(), *cells))
        assert f"\n{line}\n" in report
    for name in networks:
        dsc, error = (value("3", name, MEAN, m).mean for m in ("dsc", "volume_error_cm3"))
        assert f"(DSC = {dsc:.2f}, VError = {error:.1f} cm³)" in report
    for bone in ("tibia", "fibula"):
        dsc, error = (value("3", "h-denseunet", bone, m).mean for m in ("dsc", "volume_error_cm3"))
        assert f"H-DenseUNet (DSC = {dsc:.2f}, VError = {error:.1f}cm³)" in report


def test_table_4(report):
    tuned = "\t".join(spread("4", "fine-tuned", bone, "dsc") for bone in BONES)
    assert f"\nDSC\t{tuned}\n" in report
    *first, last = (f"{value('4', 'as it is', bone, 'dsc').mean:.2f}" for bone in BONES)
    assert f"was {', '.join(first)}, and {last} respectively" in report


def test_table_5(report):
    networks = ("unet-resnet34", "nnunet-2d", "nnunet-3d", "unet-baseline")
    millions = "\t".join(f"{value('5', name, '', 'trainable').mean / 1e6:.0f}M" for name in networks)
    seconds = "\t".join(f"{value('5', name, '', 'scan').mean:.0f}s" for name in networks)
    assert f"\nTrainable Parameters\t{millions}\n" in report
    assert f"\nInference Time (GPU)\t{seconds}\n" in report
