"""Half precision with a gradient scaler, under every scheme."""

import pytest
import torch

from tests.accelerator.schemes import SCHEMES
from tests.accelerator.step import Step


@pytest.mark.parametrize("name", SCHEMES)
def test_half_precision_weighs_as_single_precision_does(name):
    half, single = Step(name, "cpu", half=True), Step(name, "cpu")
    for _ in range(3):
        half()
        single()
    torch.testing.assert_close(half.weights(), single.weights(), rtol=5e-3, atol=1e-4)
