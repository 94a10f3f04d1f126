import math

import pytest
import torch

from lossbalance.weighting import Fixed


def test_each_loss_is_weighed_by_its_own_number_whatever_the_order_of_the_mapping():
    total, weights = Fixed(["a", "b"], weights={"b": 10.0, "a": 0.0})(torch.tensor([3.0, 0.5]))
    assert total.item() == 5.0
    assert weights.tolist() == [0.0, 10.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"a": 1.0}, r"`weights` must name each term of \['a', 'b'\] once: missing \['b'\]"),
        ({"a": 1.0, "b": -1.0}, r"`weights\['b'\]` must be a number, finite and not negative, got -1.0: to maximize"),
        ({"a": 1.0, "b": math.nan}, "got nan"),
        ({"a": 1.0, "b": "1"}, "got '1'"),
        ([1.0, 1.0], r"`weights` must map each term of \['a', 'b'\] to a number"),
    ],
)
def test_weights_that_do_not_fit_the_terms_are_refused(weights, message):
    with pytest.raises((TypeError, ValueError), match=message):
        Fixed(["a", "b"], weights=weights)
