import torch

from lossbalance.conflict import Gate


def gate(*terms: str) -> Gate:
    aggregator = Gate("main")
    aggregator.set_terms(terms)
    return aggregator


def test_three_gradients_by_hand():
    # main (2, 0): (-1, 1) opposes it and is left out, (1, 4) does not
    rows = torch.tensor([[-1.0, 1.0], [2.0, 0.0], [1.0, 4.0]])
    assert gate("left", "main", "right")(rows @ rows.T).tolist() == [0.0, 1.0, 1.0]


def test_orthogonal_gradients_such_as_those_of_other_samples_are_kept():
    assert gate("aux", "main")(torch.eye(2)).tolist() == [1.0, 1.0]
