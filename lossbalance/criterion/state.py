"""State of a criterion: names of the scheme and its terms, factors, order of the terms."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossbalance._utils.deferred import DeferredModule
from lossbalance._utils.warn import warn_user
from lossbalance.weighting.base import Weighting

_END = 0.0  # of the text


def prepare_state(
    state: dict[str, Any], prefix: str, weighting: Weighting, factors: Mapping[str, float], fixed: Sequence[str] = ()
) -> None:
    """Brings the part of ``state`` under ``prefix`` into the form that the criterion loads, in place.

    Args:
        state: The state of a criterion, or of a module that has one.
        prefix: The criterion's place in it, such as ``"criterion."``.
        weighting: The criterion's scheme.
        factors: The factors of terms and penalties, for a state of an earlier version, which has none.
        fixed: Names of the terms of known weight.

    Raises:
        ValueError: If the state does not fit the scheme.
    """
    names = f"{prefix}_extra_state"
    if names not in state and any(key.startswith(prefix) for key in state):
        warn_user(
            f"the state has no {names!r}, the names of scheme and terms, as it would in an earlier version: it is "
            f"taken for one of {type(weighting).__name__} with the terms in the order {list(weighting.terms)}."
        )
        state[names] = describe(weighting, factors, fixed)
    if names in state:
        bring_in_order(state, prefix, weighting, fixed)


def read_factors(state: Tensor, weighting: Weighting, fixed: Sequence[str] = ()) -> dict[str, float]:
    """Returns the factors that are not 1.

    Raises:
        ValueError: If the state is not one of the scheme with its terms in the same order.
    """
    ours = [*weighting.terms, *fixed]
    if read_terms(state, weighting, fixed) != ours:
        raise ValueError(f"the state must have its terms in the order {ours}: load it as a whole.")
    return read_description(state)["factors"]


def materialize(criterion: nn.Module, is_loaded: bool) -> None:
    """Derives the tensors that have no values after a criterion made on the meta device was given memory.

    Args:
        criterion: The criterion.
        is_loaded: Whether a state has been loaded: then only what no state holds is derived.
    """
    for module in criterion.modules():
        if isinstance(module, DeferredModule):
            module.derive() if is_loaded else module.reset_parameters()


def describe(weighting: Weighting, factors: Mapping[str, float], fixed: Sequence[str] = ()) -> Tensor:
    """Returns the names of the scheme and its terms and all factors, as numbers.

    In a state, formats such as safetensors want tensors, a distributed checkpoint wants them of one size throughout a
    training, and an average over states wants numbers that averaging does not change.
    """
    names = {"scheme": type(weighting).__name__, "terms": list(weighting.terms), "factors": list(factors)}
    names |= {"fixed": list(fixed)} if fixed else {}
    return torch.tensor([*json.dumps(names).encode(), _END, *factors.values()], dtype=torch.float64, device="cpu")


def read_description(state: Tensor) -> dict[str, Any]:
    """Returns what :func:`describe` was given."""
    numbers = [*state.tolist(), _END]  # an earlier version has the factors in the text, those that are not 1
    end = numbers.index(_END)
    found = {"factors": {}, "fixed": []} | json.loads(bytes(map(round, numbers[:end])))
    if end < len(state):
        found["factors"] = dict(zip(found["factors"], state[end + 1 :].tolist(), strict=True))
    return found


def read_terms(state: Tensor, weighting: Weighting, fixed: Sequence[str] = ()) -> list[str]:
    """Returns the names of the terms in a state, those of known weight last, once it is one of scheme and terms.

    Raises:
        ValueError: If it is that of another scheme or of other terms, or the order of the terms matters to the scheme.
    """
    found = read_description(state)
    scheme, terms, ours = found["scheme"], found["terms"], list(weighting.terms)
    if scheme != type(weighting).__name__:
        raise ValueError(
            f"the state is that of {scheme}, the criterion's scheme is {type(weighting).__name__}: make the criterion "
            f"with {scheme}, or leave the criterion out of the state and start the scheme anew."
        )
    if sorted(terms) != sorted(ours):
        raise ValueError(
            f"the state must be one of the criterion's terms, {ours}, got one of {terms}: make the criterion with "
            "these, or leave the criterion out of the state and start the scheme anew."
        )
    if weighting.first_term_leads and terms[0] != ours[0]:
        raise ValueError(
            f"the state has {terms[0]!r} for its first term, the criterion {ours[0]!r}, and to {scheme} the first is "
            f"not like the others: make the criterion with {terms}."
        )
    if sorted(found["fixed"]) != sorted(fixed):
        raise ValueError(
            f"the state must have the terms of known weight {list(fixed)}, got one with {found['fixed']}: make the "
            "criterion with these as `fixed`, or leave the criterion out of the state and start anew."
        )
    return [*terms, *found["fixed"]]


def bring_in_order(state: dict[str, Any], prefix: str, weighting: Weighting, fixed: Sequence[str] = ()) -> None:
    """Brings the part of ``state`` under ``prefix`` in the order of the terms, in place.

    Args:
        state: The state of a criterion, or of a module that has one.
        prefix: The criterion's place in it, such as ``"criterion."``.
        weighting: The criterion's scheme.
        fixed: Names of the terms of known weight.

    Raises:
        ValueError: If the state does not fit the scheme.
    """
    names = f"{prefix}_extra_state"
    terms, ours = read_terms(state[names], weighting, fixed), [*weighting.terms, *fixed]
    if terms == ours:
        return
    order = [terms.index(term) for term in ours]
    of_scheme = order[: len(weighting.terms)]
    for key in state:
        if key.startswith(prefix) and not key.startswith((f"{prefix}penalties.", names)):
            whole = not key.startswith((f"{prefix}weighting.", f"{prefix}scale."))
            state[key] = _reorder(state[key], order if whole else of_scheme)
    state[names] = describe(weighting, read_description(state[names])["factors"], fixed)


def _reorder(value: Any, order: Sequence[int]) -> Any:
    """Returns the value with the last dimension of each row of terms in another order."""
    if isinstance(value, Tensor):
        return value[..., list(order)] if value.ndim and value.size(-1) == len(order) else value
    if isinstance(value, Mapping):
        return {name: _reorder(part, order) for name, part in value.items()}
    return [_reorder(part, order) for part in value] if isinstance(value, list) else value
