"""The names of the terms in a state."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from lossbalance.weighting.base import Weighting


def describe(weighting: Weighting, factors: Mapping[str, float]) -> Tensor:
    """Returns the names of the scheme and its terms, and the factors that are not 1, as bytes.

    In a state, formats such as safetensors want tensors.
    """
    names = {"scheme": type(weighting).__name__, "terms": list(weighting.terms)}
    changed = {name: factor for name, factor in factors.items() if factor != 1}
    return torch.tensor(list(json.dumps(names | {"factors": changed}).encode()), dtype=torch.uint8)


def read_description(state: Tensor) -> dict[str, Any]:
    """Returns what :func:`describe` was given."""
    return {"factors": {}} | json.loads(bytes(state.tolist()))


def bring_in_order(state: dict[str, Any], prefix: str, weighting: Weighting) -> None:
    """Brings the part of ``state`` under ``prefix`` in the order of the terms, in place.

    Args:
        state: The state of a criterion, or of a module that has one.
        prefix: The criterion's place in it, such as ``"criterion."``.
        weighting: The criterion's scheme.

    Raises:
        ValueError: If the state is that of another scheme or of other terms, or the order matters to the scheme.
    """
    names = read_description(state[f"{prefix}_extra_state"])
    scheme, terms, ours = names["scheme"], names["terms"], list(weighting.terms)
    if scheme != type(weighting).__name__:
        raise ValueError(
            f"the state is that of {scheme}, the criterion's scheme is {type(weighting).__name__}: make the criterion "
            f"with {scheme}, or leave what begins with {prefix!r} out of the state and start the scheme anew."
        )
    if sorted(terms) != sorted(ours):
        raise ValueError(
            f"the state must be one of the criterion's terms, {ours}, got one of {terms}: make the criterion with "
            f"these, or leave what begins with {prefix!r} out of the state and start the scheme anew."
        )
    if terms == ours:
        return
    if weighting.first_term_leads and terms[0] != ours[0]:
        raise ValueError(
            f"the state has {terms[0]!r} for its first term, the criterion {ours[0]!r}, and to {scheme} the first is "
            f"not like the others: make the criterion with {terms}."
        )
    order = [terms.index(term) for term in ours]
    for key in state:
        if key.startswith(prefix) and not key.startswith((f"{prefix}penalties.", f"{prefix}_extra_state")):
            state[key] = _reorder(state[key], order)


def _reorder(value: Any, order: Sequence[int]) -> Any:
    """Returns the value with the last dimension of each row of terms in another order."""
    if isinstance(value, Tensor):
        return value[..., list(order)] if value.ndim and value.size(-1) == len(order) else value
    if isinstance(value, Mapping):
        return {name: _reorder(part, order) for name, part in value.items()}
    return [_reorder(part, order) for part in value] if isinstance(value, list) else value
