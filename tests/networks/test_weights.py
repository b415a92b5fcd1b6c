"""Weights and state: there and back, damage, and what must never be in them."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from viscera.config import UNetShape
from viscera.errors import WeightsError
from viscera.labels import ZHANG12
from viscera.networks.unet import UNet
from viscera.networks.weights import Weights, find_weights, load_state, load_weights, save_state, save_weights
from viscera.recipes.zhang2d import ZHANG2D


def small_network() -> UNet:
    torch.manual_seed(0)
    return UNet(UNetShape(widths=(2, 4)), classes=2)


def test_weights_come_back_with_recipe_space_and_provenance(tmp_path):
    network = small_network()
    file = tmp_path / "best.safetensors"
    save_weights(file, Weights(ZHANG2D, ZHANG12, network.state_dict(), {"epoch": 3}))
    back = load_weights(file)
    assert (back.recipe, back.space, back.provenance) == (ZHANG2D, ZHANG12, {"epoch": 3})
    assert all(torch.equal(back.tensors[name], tensor) for name, tensor in network.state_dict().items())
    assert json.loads(file.with_suffix(".json").read_text())["label_space"]["organs"] == list(ZHANG12.organs)
    with safe_open(file, "pt") as opened:  # any safetensors reader can open it
        assert set(opened.keys()) == set(network.state_dict())


def test_a_state_puts_network_and_optimizer_back_to_the_bit(tmp_path):
    network = small_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)

    def step(net, opt):
        net(torch.ones(1, 1, 4, 4)).square().sum().backward()
        opt.step()
        opt.zero_grad()

    step(network, optimizer)
    save_state(
        tmp_path / "state.safetensors",
        {"network": network},
        optimizer,
        progress={"epoch": 1, "best_loss": float("inf")},
    )
    other = UNet(UNetShape(widths=(2, 4)), classes=2)
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=1.0)
    progress = load_state(tmp_path / "state.safetensors", {"network": other}, other_optimizer)
    assert progress == {"epoch": 1, "best_loss": float("inf")}
    step(network, optimizer)
    step(other, other_optimizer)
    for a, b in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_damaged_foreign_and_unfitting_weights_are_refused(tmp_path):
    file = tmp_path / "w.safetensors"
    save_weights(file, Weights(ZHANG2D, ZHANG12, small_network().state_dict(), {}))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsError, match=r"w\.safetensors: not a readable safetensors file"):
        load_weights(file)
    file.write_bytes(b"\x80\x04\x95 a pickle")
    with pytest.raises(WeightsError, match="not a readable safetensors file"):
        load_weights(file)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match="not one of viscera's"):
        load_weights(file)


def test_an_optimizer_state_of_another_network_is_refused(tmp_path):
    network = small_network()
    save_state(tmp_path / "s.safetensors", {"network": network}, torch.optim.AdamW(network.parameters()), progress={})
    wider = UNet(UNetShape(widths=(4, 8)), classes=2)
    with pytest.raises(WeightsError, match="for another network"):
        load_state(tmp_path / "s.safetensors", {"network": wider}, torch.optim.AdamW(wider.parameters()))


def test_weights_are_found_in_a_runs_folder_best_before_last(tmp_path):
    with pytest.raises(WeightsError, match=r"holds no best\.safetensors"):
        find_weights(tmp_path)
    (tmp_path / "last.safetensors").touch()
    assert find_weights(tmp_path).name == "last.safetensors"
    (tmp_path / "best.safetensors").touch()
    assert find_weights(tmp_path).name == "best.safetensors"
    with pytest.raises(WeightsError, match="no weights at"):
        find_weights(tmp_path / "nothing")
