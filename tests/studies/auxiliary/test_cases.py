"""Cases of the study of auxiliary losses."""

import pytest
import torch

from studies.auxiliary.cases import HARMFUL, KINDS, RELATED, UNRELATED, make_case


@pytest.mark.parametrize("kind", KINDS)
def test_a_case_has_a_main_target_and_three_others_and_disjoint_parts(kind):
    case = make_case("digits", kind, rows=100, seed=1)
    assert case.targets[0].name == "digit"
    assert len(case.targets) == 4
    parts = [set(part.tolist()) for part in (case.training, case.validation, case.test)]
    assert len(parts[0]) == 100
    assert sum(map(len, parts)) == len(set.union(*parts))
    inputs = case.inputs[case.training]
    torch.testing.assert_close(inputs.mean(0), torch.zeros(inputs.shape[1]), rtol=0, atol=0.3)  # clipped


def test_harmful_labels_are_shuffled_and_one_target_is_ten_times_as_large():
    related, harmful = (make_case("diabetes", kind, rows=200, seed=0) for kind in (RELATED, HARMFUL))
    ours, theirs = related.labels[:, 0], harmful.labels[:, 1]
    assert torch.corrcoef(torch.stack([ours, theirs]))[0, 1].abs() < 0.15
    deviations = harmful.labels[harmful.training].std(0)
    torch.testing.assert_close(deviations[[0, 3]], torch.tensor([1.0, 10.0]), rtol=0.01, atol=0)


def test_unrelated_targets_differ_between_seeds():
    first, second = (make_case("diabetes", UNRELATED, rows=50, seed=seed).labels[:, 1] for seed in (0, 1))
    assert not torch.allclose(first, second)
