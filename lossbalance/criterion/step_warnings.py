"""Warnings of a step, in any training loop: losses without gradient, learned weights that no optimizer updates."""

from collections.abc import Iterable, Mapping
from typing import Any
from weakref import ref

from torch import Tensor, nn

from lossbalance._utils.warn import warn_user
from lossbalance.gradients.data_parallel import walk

_MISSED = 5  # updates of the network that the parameters of a scheme may miss


class StepWarnings:
    """Warns once of each fault that shows in the losses of a step, without a value from the device.

    A learned weight that no optimizer holds is one whose version never changes and whose gradient only accumulates,
    while a parameter of the network is updated, or its gradient cleared. So accumulated batches, skipped steps of a
    gradient scaler, fused optimizers, which change no version, and losses that nobody differentiates are no fault.

    Attributes:
        detached: The terms whose losses had no gradient beside others that had one.
    """

    def __init__(self) -> None:
        self.detached: set[str] = set()
        self._watches = True  # for an update of the scheme's parameters
        self._versions: list[int] = []  # of the scheme's parameters, after the last step
        self._gradients: dict[str, int] = {}  # versions of their gradients at the last step
        self._network: Any = None  # a weak reference to one of its parameters
        self._network_versions = (-1, -1)  # of the parameter and of its gradient
        self._missed = 0

    def begin_step(self, losses: Mapping[str, Tensor | None], weighting: nn.Module) -> None:
        """Checks the losses of a training step; call it before the scheme observes them.

        Args:
            losses: The losses by name; None for an absent term.
            weighting: The scheme.
        """
        present = {term: loss for term, loss in losses.items() if loss is not None}
        detached = [term for term, loss in present.items() if not loss.requires_grad]
        if detached and len(detached) < len(present):
            self._report_detached(detached)
        if self._watches:
            self._check_updates(present, weighting)

    def end_step(self, weighting: nn.Module) -> None:
        """Remembers the versions of the scheme's parameters; call it after the scheme observed the step."""
        if self._watches:
            self._versions = [parameter._version for parameter in _learned(weighting).values()]

    def ignore_updates(self) -> None:
        """Stops looking for updates of the scheme's parameters; for who has checked the optimizers."""
        self._watches = False

    def _report_detached(self, terms: Iterable[str]) -> None:
        for term in terms:
            if term not in self.detached:
                self.detached.add(term)
                warn_user(describe_detached(term))

    def _check_updates(self, losses: Mapping[str, Tensor], weighting: nn.Module) -> None:
        learned = _learned(weighting)
        unmoved = [name for (name, p), seen in zip(learned.items(), self._versions, strict=False) if p._version == seen]
        if not learned or (self._versions and not unmoved):
            self._watches = False
            return
        accumulates = all(self._accumulates(name, learned[name]) for name in unmoved)
        if self._network_moved(losses, learned) and unmoved and accumulates:
            self._missed += 1
        if self._missed == _MISSED:
            self._watches = False
            names = [f"`{type(weighting).__name__}.{name}`" for name in unmoved]
            warn_user(
                f"The weights of {list(losses)} do not move, for no optimizer updates {', '.join(names)}, while the "
                "network is trained: add `*criterion.parameter_groups()` to the parameter groups of the optimizer."
            )

    def _accumulates(self, name: str, parameter: nn.Parameter) -> bool:
        """Returns whether the gradient was added to since the last step, and not cleared."""
        last, version = self._gradients.get(name, -1), _gradient_version(parameter)
        self._gradients[name] = version
        return version > last

    def _network_moved(self, losses: Mapping[str, Tensor], learned: Mapping[str, nn.Parameter]) -> bool:
        """Returns whether the network was updated, or its gradient cleared, since the last step."""
        parameter = None if self._network is None else self._network()
        is_new = parameter is None
        if parameter is None:
            parameter = _find_parameter(losses.values(), learned.values())
            if parameter is None:
                return False
            self._network = ref(parameter)
        last, versions = self._network_versions, (parameter._version, _gradient_version(parameter))
        self._network_versions = versions
        return not is_new and (versions[0] != last[0] or versions[1] <= last[1])

    def __reduce__(self) -> tuple[type["StepWarnings"], tuple[()]]:
        return StepWarnings, ()  # a copy starts anew


def describe_detached(term: str) -> str:
    """Returns the message for a loss without gradient."""
    return (
        f"{term!r} has no gradient, while other losses have one: it trains nothing. Is it detached, computed without "
        f"gradients, by `argmax` or from frozen parameters alone? Give None for a term that a batch lacks."
    )


def _gradient_version(parameter: Tensor) -> int:
    """Returns the version of the gradient, which grows where it is added to; -1 where there is none."""
    return -1 if parameter.grad is None else parameter.grad._version


def _learned(weighting: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in weighting.named_parameters() if parameter.requires_grad}


def _find_parameter(losses: Iterable[Tensor], learned: Iterable[nn.Parameter]) -> Tensor | None:
    """Returns a parameter of the network that the losses depend on, or else any leaf; None where there is none."""
    own = {id(parameter) for parameter in learned}
    leaves = (getattr(node, "variable", None) for node in walk(loss.grad_fn for loss in losses))
    found = [leaf for leaf in leaves if leaf is not None and id(leaf) not in own]
    return next((leaf for leaf in found if isinstance(leaf, nn.Parameter)), found[0] if found else None)
