"""The state of a criterion: it has the names of the scheme and its terms."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lossbalance._utils.checks import check_word
from lossbalance._utils.deferred import DeferredModule
from lossbalance._utils.warn import warn_user
from lossbalance.criterion.factors import Factors, check_factor
from lossbalance.gradients.probes import Probes
from lossbalance.penalties.collection import Penalties
from lossbalance.weighting.base import Weighting


class NamedState(nn.Module):
    """The part of :class:`~lossbalance.WeightedLoss` that saves and loads what users set and schemes learn."""

    terms: tuple[str, ...]
    weighting: Weighting
    probes: Probes
    penalties: Penalties
    _factors: Factors
    _is_loaded = False

    def set_factor(self, name: str, factor: float) -> None:
        """Multiplies the weight that the scheme gives a term, or the strength of a penalty, from the next step on.

        The factor is in the state. What the scheme learns does not depend on it; a term with a factor of 0 is to the
        scheme as one that is absent, and has no backward pass on a single process.

        Args:
            name: The term or penalty.
            factor: 0 or more; 1 before the first call.

        Raises:
            TypeError: If the factor is not a number.
            ValueError: If the name is unknown, or the factor negative or not finite.
        """
        check_word("name", name, [*self.terms, *self.penalties])
        if name in self.terms:
            self._factors.set_factor(name, check_factor(name, factor))
        else:
            self.penalties.by_name[name].factor = check_factor(name, factor)

    @property
    def factors(self) -> dict[str, float]:
        """What the weights of terms and the strengths of penalties are multiplied by."""
        penalties = {name: penalty.factor for name, penalty in self.penalties.by_name.items()}
        return {term: self._factors.by_name.get(term, 1.0) for term in self.terms} | penalties

    def get_extra_state(self) -> Tensor:
        """The names of the scheme and its terms, and the factors."""
        return describe(self.weighting, self.factors)

    def set_extra_state(self, state: Tensor) -> None:
        """Takes up the factors; all else has been brought in order, where a whole state is loaded."""
        ours = list(self.weighting.terms)
        if read_terms(state, self.weighting) != ours:
            raise ValueError(f"the state must have its terms in the order {ours}: load it as a whole.")
        saved = read_description(state)["factors"]
        for name in self.factors:
            self.set_factor(name, saved.get(name, 1.0))
        self._is_loaded = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        names = f"{prefix}_extra_state"
        if names not in state_dict and any(key.startswith(prefix) for key in state_dict):
            warn_user(
                f"the state has no {names!r}, the names of scheme and terms, as it would in an earlier version: it is "
                f"taken for one of {type(self.weighting).__name__} with the terms in the order {list(self.terms)}."
            )
            state_dict[names] = describe(self.weighting, self.factors)
        if names in state_dict:
            bring_in_order(state_dict, prefix, self.weighting)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def derive_values(self) -> None:
        """Sets right, once, what got no values when a criterion made on the meta device was given memory."""
        if not self.probes.is_deferred or self.probes.device.type == "meta":
            return
        for module in self.modules():
            if isinstance(module, DeferredModule):
                module.derive() if self._is_loaded else module.reset_parameters()
        self.probes.move()
        self.probes.is_deferred = False


def describe(weighting: Weighting, factors: Mapping[str, float]) -> Tensor:
    """Returns the names of the scheme and its terms, and the factors that are not 1, as bytes.

    In a state, formats such as safetensors want tensors.
    """
    names = {"scheme": type(weighting).__name__, "terms": list(weighting.terms)}
    changed = {name: factor for name, factor in factors.items() if factor != 1}
    text = json.dumps(names | {"factors": changed})
    return torch.tensor(list(text.encode()), dtype=torch.uint8, device="cpu")


def read_description(state: Tensor) -> dict[str, Any]:
    """Returns what :func:`describe` was given."""
    return {"factors": {}} | json.loads(bytes(state.tolist()))


def read_terms(state: Tensor, weighting: Weighting) -> list[str]:
    """Returns the names of the terms in a state, once the state is one of the scheme and of its terms.

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
    return terms


def bring_in_order(state: dict[str, Any], prefix: str, weighting: Weighting) -> None:
    """Brings the part of ``state`` under ``prefix`` in the order of the terms, in place.

    Args:
        state: The state of a criterion, or of a module that has one.
        prefix: The criterion's place in it, such as ``"criterion."``.
        weighting: The criterion's scheme.

    Raises:
        ValueError: If the state does not fit the scheme.
    """
    names = f"{prefix}_extra_state"
    terms = read_terms(state[names], weighting)
    if terms == list(weighting.terms):
        return
    order = [terms.index(term) for term in weighting.terms]
    for key in state:
        if key.startswith(prefix) and not key.startswith((f"{prefix}penalties.", names)):
            state[key] = _reorder(state[key], order)
    state[names] = describe(weighting, read_description(state[names])["factors"])


def _reorder(value: Any, order: Sequence[int]) -> Any:
    """Returns the value with the last dimension of each row of terms in another order."""
    if isinstance(value, Tensor):
        return value[..., list(order)] if value.ndim and value.size(-1) == len(order) else value
    if isinstance(value, Mapping):
        return {name: _reorder(part, order) for name, part in value.items()}
    return [_reorder(part, order) for part in value] if isinstance(value, list) else value
