"""What a network computes with where there is a GPU, and a runtime that fails."""

import pytest
import torch

from makers import nearest_model
from viscera.networks.device import peak_memory_mib
from viscera.networks.precision import precision_of
from viscera.networks.runners import CannotRunError
from viscera.networks.torch_runner import TorchRunner, require_agreement

MODEL = nearest_model()


def test_a_gpu_takes_half_precision_and_what_was_asked_for_is_kept():
    assert precision_of("auto", "cuda") == "16-mixed"
    assert precision_of("32-true", "cuda") == "32-true"
    assert peak_memory_mib() > 50


def test_a_runtime_that_fails_cannot_run_and_says_why():
    class Broken(TorchRunner):
        def __call__(self, image):
            raise RuntimeError("no such kernel")

    network = MODEL.network.module if hasattr(MODEL.network, "module") else torch.nn.Identity()
    with pytest.raises(CannotRunError, match="it fails: no such kernel"):
        require_agreement(Broken(network), network, channels=1)
