import pytest

pytest.importorskip("nicegui")

from gui.pages import train
from seg_core.runner import default_model
from trainers.model_file import network_of, read_model
from trainers.registry import get_network


def test_the_page_knows_which_network_is_bundled():
    path = default_model()
    trainer, name = train._BUNDLED.split("/")
    assert name == network_of(read_model(path)[0])
    assert get_network(trainer, name).extra == "torch"
