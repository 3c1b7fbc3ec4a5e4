import pytest

pytest.importorskip("nicegui")

from gui.pages import train, training
from seg_core.runner import default_model
from trainers.model_file import network_of, read_model
from trainers.registry import get_network


def test_a_network_whose_package_is_not_there_names_its_extra(monkeypatch):
    monkeypatch.setattr("trainers.registry.find_spec", lambda name: None)
    missing = {key: extra for key, (_, extra) in train.networks().items()}
    assert missing["torch", "unet-resnet34"] == "torch"
    assert missing["keras", "unet-resnet34"] == "keras"


def test_the_page_knows_which_network_is_bundled():
    path = default_model()
    trainer, name = train._BUNDLED.split("/")
    assert name == network_of(read_model(path)[0])
    assert get_network(trainer, name).extra == "torch"


def test_the_page_knows_how_the_bundled_network_wants_its_slices():
    known = read_model(default_model())[0]
    for name in ("grid", "normalisation", "usual_mm"):
        assert getattr(training._BUNDLED, name) == getattr(known, name)


def test_what_was_not_validated_is_left_open_in_the_curves():
    assert training._series("mean", "#fff", [float("nan"), 0.5])["data"] == [None, 0.5]
