"""Selection of the penalized parameters of a module by name, and the factor of each."""

import re
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from lossbalance._utils.checks import did_you_mean
from lossbalance.penalties.blocks import Block, Blocks, find_blocks
from lossbalance.penalties.dtensor import layout
from lossbalance.penalties.normalization import Normalization, scale
from lossbalance.penalties.settings import Strength

Coefficients = Sequence[float | Tensor]


class Group(NamedTuple):
    """Penalized parameters of equal factors."""

    factors: Coefficients
    """Strength times scale over the number of samples, for each part of the penalty."""
    weights: list[nn.Parameter]
    names: list[str]
    blocks: Blocks | None = None
    """The groups of a group lasso within each tensor."""
    references: list[Tensor] | None = None
    """Where the distance to each tensor starts."""

    @property
    def extras(self) -> tuple[Any, ...]:
        """The further arguments of a penalty's ``measure``, ``gradients`` and ``proximal``."""
        return tuple(extra for extra in (self.blocks, self.references) if extra is not None)

    def where(self, holds: Callable[[nn.Parameter], bool]) -> "Group":
        """Returns the group of those parameters for which ``holds`` is true."""
        chosen = [i for i, weight in enumerate(self.weights) if holds(weight)]
        weights, names = [self.weights[i] for i in chosen], [self.names[i] for i in chosen]
        references = None if self.references is None else [self.references[i] for i in chosen]
        return Group(self.factors, weights, names, self.blocks, references)


class Rule(NamedTuple):
    """The arguments of a penalty that select parameters and scale them."""

    strengths: dict[str, Strength]
    """For each part of the penalty, by the name of the argument."""
    normalization: Normalization
    include: tuple[str, ...] | None
    exclude: tuple[str, ...]
    num_samples: float
    block: Block | None = None
    """What the groups of a group lasso are; None for other penalties."""

    def groups(self, module: nn.Module) -> list[Group]:
        """Returns the penalized parameters of ``module``, in groups of equal factors.

        Raises:
            ValueError: If a pattern matches no parameter.
        """
        candidates = list(_candidates(module))
        included = {candidate.names for candidate in _matching("include", self.include or (), candidates)}
        excluded = {candidate.names for candidate in _matching("exclude", self.exclude, candidates)}
        chosen = [
            candidate
            for candidate in candidates
            if candidate.names not in excluded
            and (candidate.names in included if self.include is not None else candidate.weight.ndim >= 2)
        ]
        parts = zip(*(_strengths(name, strength, chosen) for name, strength in self.strengths.items()), strict=True)
        trained = [
            (candidate, [strength or 0.0 for strength in strengths])
            for candidate, strengths in zip(chosen, parts, strict=True)
            if candidate.weight.requires_grad and any(strength is not None for strength in strengths)
        ]
        count = sum(candidate.weight.numel() for candidate, _ in trained)
        found: dict[tuple[tuple[float, ...], Any, Blocks | None], list[_Candidate]] = {}
        for candidate, strengths in trained:
            _, weight, owner, attribute = candidate
            factor = scale(self.normalization, weight, owner, attribute, count) / self.num_samples
            blocks = None if self.block is None else find_blocks(self.block, weight, owner)
            key = tuple(strength * factor for strength in strengths), layout(weight), blocks
            found.setdefault(key, []).append(candidate)
        return [
            Group(factors, [each.weight for each in members], [each.names[0] for each in members], blocks)
            for (factors, _, blocks), members in found.items()
        ]


class Selection:
    """The groups of a rule in a module, which keep neither the module nor its parameters alive."""

    def __init__(self, rule: Rule, module: nn.Module) -> None:
        parameters = list(module.parameters())
        position = {id(parameter): i for i, parameter in enumerate(parameters)}
        self._seen = [(weakref.ref(parameter), parameter.requires_grad) for parameter in parameters]
        self._groups = [
            (group._replace(weights=[]), [position[id(weight)] for weight in group.weights])
            for group in rule.groups(module)
        ]

    def fits(self, parameters: list[nn.Parameter]) -> bool:
        """Whether the module still has these parameters, and each is trained or frozen as it was."""
        return len(parameters) == len(self._seen) and all(
            seen() is parameter and trained == parameter.requires_grad
            for parameter, (seen, trained) in zip(parameters, self._seen, strict=True)
        )

    def groups(self, parameters: list[nn.Parameter]) -> list[Group]:
        """Returns the groups of the module's parameters."""
        return [group._replace(weights=[parameters[i] for i in positions]) for group, positions in self._groups]


class _Candidate(NamedTuple):
    names: tuple[str, ...]  # several where parameters are tied
    weight: nn.Parameter
    owner: nn.Module
    attribute: str  # its name in the owner

    def matches(self, pattern: str) -> bool:
        return any(re.search(pattern, name) for name in self.names)


def _candidates(module: nn.Module) -> Iterator[_Candidate]:
    modules = dict(module.named_modules())
    names: dict[nn.Parameter, list[str]] = {}
    owners: dict[nn.Parameter, tuple[nn.Module, str]] = {}
    for prefix, owner in modules.items():
        for attribute, weight in owner.named_parameters(recurse=False):
            names.setdefault(weight, []).append(f"{prefix}.{attribute}".lstrip("."))
            owners.setdefault(weight, _user(prefix, attribute, modules))
    return (_Candidate(tuple(names[weight]), weight, *owner) for weight, owner in owners.items())


def _user(prefix: str, attribute: str, modules: Mapping[str, nn.Module]) -> tuple[nn.Module, str]:
    """Returns the module that uses a parameter, also through a parametrization, and the name that it has there."""
    if isinstance(modules[prefix], ParametrizationList) and attribute == "original":  # and not one part of several
        parent, _, name = f".{prefix}".rpartition(".parametrizations.")
        return modules[parent.lstrip(".")], name
    return modules[prefix], attribute


def _matching(argument: str, patterns: Iterable[str], candidates: list[_Candidate]) -> list[_Candidate]:
    for pattern in patterns:
        if not any(candidate.matches(pattern) for candidate in candidates):
            raise _matches_nothing(argument, pattern, candidates)
    return [candidate for candidate in candidates if any(map(candidate.matches, patterns))]


def _strengths(argument: str, strength: Strength, candidates: list[_Candidate]) -> list[float | None]:
    """Returns the strength of each candidate: that of the first pattern that matches, or None."""
    if not isinstance(strength, Mapping):
        return [strength] * len(candidates)
    _matching(argument, strength, candidates)
    return [
        next((each for pattern, each in strength.items() if candidate.matches(pattern)), None)
        for candidate in candidates
    ]


def _matches_nothing(argument: str, pattern: str, candidates: list[_Candidate]) -> ValueError:
    names = [candidate.names[0] for candidate in candidates]
    shown = f"{names[:8]} and {len(names) - 8} more" if len(names) > 8 else f"{names}"
    return ValueError(
        f"`{argument}` must match parameters by name (`re.search`), and {pattern!r} matches none of "
        f"{shown}{did_you_mean(pattern, names)}."
    )
