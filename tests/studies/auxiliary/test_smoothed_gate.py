"""The smoothed gate of the study of auxiliary losses."""

import pytest
import torch

from studies.auxiliary.smoothed_gate import SmoothedGate


def test_it_opens_once_the_mean_cosine_is_positive_beyond_noise_and_limits_the_length():
    gate, draw = SmoothedGate(decay=0.9), torch.Generator().manual_seed(0)
    gramian = torch.tensor([[1.0, 2.0, 0.0], [2.0, 16.0, 0.0], [0.0, 0.0, 4.0]])  # norms 1, 4 and 2
    for step in range(100):
        noise = 0.1 * torch.randn((), generator=draw).item()
        multipliers = gate(gramian, torch.tensor([1.0, 0.3 + noise, -0.3 + noise]))
        assert step > 3 or multipliers.tolist() == [1.0, 0.0, 0.0]
    assert multipliers.tolist() == pytest.approx([1.0, 0.25, 0.0])


def test_what_is_kept_loses_its_component_against_the_main_gradient():
    gate = SmoothedGate(decay=0.5)
    for cosine in (0.5, 0.4, 0.5):
        multipliers = gate(torch.tensor([[1.0, -1.0], [-1.0, 4.0]]), torch.tensor([1.0, cosine]))
    # the auxiliary gradient is shortened to length 1, and its component -1/2 is added to the main one
    assert multipliers.tolist() == pytest.approx([1.5, 0.5])
