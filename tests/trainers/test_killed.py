"""A training that the system kills goes on with the same command."""

import subprocess
import sys

import pytest

from trainers.log import read_log
from trainers.loop import LAST

TRAINING = """
import sys, time
from pathlib import Path
import torch
from trainers import log
from trainers.config import TrainConfig
from trainers.loop import train
from trainers.torch import engine, make_engine

data, validation, run = map(Path, sys.argv[1:4])
place = "".join(sys.argv[4:])
steps = iter(range(1, 100))

def small(name, classes, channels, weights="random"):
    return torch.nn.Sequential(
        torch.nn.Conv2d(channels, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.Dropout(0.1), torch.nn.Conv2d(8, classes, 1),
    )

def wait_if(there):
    if there:
        print("here", flush=True)
        time.sleep(600)  # until it is killed

def step(self, *batch, step=engine.TorchEngine.step):
    loss = step(self, *batch)
    wait_if(place == "batch" and next(steps) == 7)  # the third of the second epoch; two are in a checkpoint
    return loss

def save(state, file, save=torch.save):
    if place == "checkpoint" and state["progress"]["epoch"] == 2 and "optimizer" in state:
        file.write(b"half of it")
        file.flush()
        wait_if(True)
    save(state, file)

engine.build_network, engine.TorchEngine.step, torch.save = small, step, save
log.can_draw = lambda: False
config = TrainConfig(
    epochs=3, epoch_samples=32, batch=8, validation_samples=16, lr=0.02, device="cpu", threads=1,
    save_minutes=0.0,
)
train(make_engine, config, (data, validation), run)
"""


def rows_of(run):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in read_log(run / "log.csv")]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Where data and the run of a training that nobody killed are kept."""
    return tmp_path_factory.mktemp("undisturbed")


@pytest.mark.parametrize(("place", "epochs"), [("batch", 1), ("checkpoint", 2)])
def test_a_killed_process_loses_nothing(tmp_path, undisturbed, make_cache, place, epochs):
    data = undisturbed / "data", undisturbed / "validation"

    def command(run, *rest):
        return [sys.executable, "-c", TRAINING, *map(str, (*data, run, *rest))]

    if not (undisturbed / "run").exists():
        make_cache(data[0])
        make_cache(data[1], seed=1)
        subprocess.run(command(undisturbed / "run"), check=True)
    run = tmp_path / "run"
    with subprocess.Popen(command(run, place), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "here\n"
        process.kill()  # SIGKILL: nothing is tidied up
    assert process.returncode != 0
    assert (run / LAST).exists()
    assert len(rows_of(run)) == epochs
    subprocess.run(command(run), check=True)
    assert rows_of(run) == rows_of(undisturbed / "run")
    assert not list(run.glob(".*"))
