import json
import re
import subprocess
import sys

from click.testing import CliRunner

from cli.train import networks
from trainers import registry
from trainers.registry import Network


def test_the_list_imports_no_framework():
    code = (
        "import sys; from cli.main import run; code = run(['networks', '--json']);"
        "print([m for m in ('torch', 'tensorflow', 'keras', 'onnx') if m in sys.modules], file=sys.stderr);"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    rows = {(row["trainer"], row["network"]): row for row in json.loads(done.stdout)}
    for trainer in ("torch", "keras"):  # the report's 4.5.1
        baseline = rows[trainer, "unet-baseline"]["defaults"]
        assert (baseline["batch"], baseline["lr"], baseline["loss"]) == (30, 1e-3, "dice")
    assert rows["torch", "nnunet-2d"]["defaults"]["loss"] == "dice_cross_entropy"
    assert rows["torch", "nnunet-2d"]["extra"] == "nnunet"
    assert {name for trainer, name in rows if trainer == "torch"} == {
        "unet-resnet34",
        "unet-resnet34-fine",
        "unet-resnet50",
        "unet-vgg19",
        "unet-mobilenetv2",
        "unet-baseline",
        "nnunet-2d",
        "nnunet-3d",
        "denseunet-161",
        "h-denseunet",
    }


def test_the_list_says_how_each_is_taught():
    lines = CliRunner().invoke(networks).output.splitlines()
    header, *rows = ([cell.strip() for cell in re.split(r"  +", line.strip())] for line in lines)
    assert header[3:7] == ["batch", "rate", "loss", "pixels"]
    taught = {(trainer, name): tuple(rest[:4]) for trainer, name, _, *rest in rows}
    for trainer in ("torch", "keras"):
        assert taught[trainer, "unet-baseline"] == ("30", "0.001", "dice", "multiples of 16")
        assert taught[trainer, "unet-resnet34"] == ("16", "0.0001", "dice_focal", "multiples of 32")
    assert taught["torch", "nnunet-2d"] == ("12", "0.001", "dice_cross_entropy", "multiples of 64")
    assert taught["torch", "nnunet-3d"] == ("2", "0.001", "dice_cross_entropy", "128 x 112 x 160")


def test_a_network_without_its_package_says_which_extra(monkeypatch):
    class Other:
        NETWORKS = {  # noqa: RUF012
            "here": Network("stands", "x", packages=("json",)),
            "gone": Network("lacks something", "jax", packages=("json", "no_such_package")),
        }

    monkeypatch.setattr(registry, "trainer_names", lambda: ["other"])
    monkeypatch.setattr(registry, "get_trainer", lambda name: Other)
    here, gone = CliRunner().invoke(networks).output.splitlines()[1:]
    assert here.split()[:3] == ["other", "here", "stands"]
    assert here.endswith("yes")
    assert gone.endswith("pip install '.[jax]' in the folder of lls")
