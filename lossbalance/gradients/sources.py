"""Sources of gradient norms: none, probes, shared tensors."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lossbalance._utils.distributed import Ranks
from lossbalance._utils.fabric import partial_backward
from lossbalance._utils.transforms import refuse_transforms
from lossbalance._utils.warn import warn_user
from lossbalance.gradients.data_parallel import check_even_inputs, check_static_graph
from lossbalance.gradients.norms import NormAccumulator, measure_each
from lossbalance.gradients.parameter_gradients import ParameterGradients
from lossbalance.gradients.pending import average_over_ranks
from lossbalance.gradients.probes import Probes
from lossbalance.gradients.tensor_parallel import find_replicas
from lossbalance.weighting.base import Losses, Observation, Weighting, is_non_finite, observe_losses, observe_norms


class StepObservation(NamedTuple):
    """The losses and norms of a step, from one source."""

    observation: Observation
    """The input of the scheme."""
    norms: Tensor | None = None
    """The norms of this very step ``[terms]``, where they are known already."""


class NormSource(ABC):
    """A source of gradient norms."""

    @abstractmethod
    def observe(self, losses: Losses) -> StepObservation | None:
        """Returns the losses and norms of the step, reduced over ranks by one collective; None if there are none."""


def choose_source(
    weighting: Weighting,
    probes: Probes,
    shared: Tensor | Iterable[Tensor] | None,
    wrapper: DistributedDataParallel | None,
) -> NormSource:
    """Returns the source of norms for a scheme.

    Args:
        weighting: The scheme.
        probes: The probes.
        shared: Tensors that the norms are taken with respect to in place of the probes, or None.
        wrapper: The data-parallel wrapper of the step, or None.
    """
    check_even_inputs(wrapper)
    refuse_transforms("to observe a step")
    probes.magnitudes = weighting.uses_magnitudes
    if not weighting.uses_gradients:
        return NoNorms(weighting, probes.ranks)
    scheme = type(weighting).__name__
    return ProbeNorms(probes, scheme) if shared is None else SharedNorms(shared, probes, scheme)


class NoNorms(NormSource):
    """For schemes that see values only: the losses of this very step.

    Args:
        weighting: The scheme.
        ranks: The ranks that the losses are averaged over.
    """

    def __init__(self, weighting: Weighting, ranks: Ranks) -> None:
        self.weighting, self.ranks = weighting, ranks

    def observe(self, losses: Losses) -> StepObservation:
        """Returns the losses, averaged over ranks."""
        values, present = losses.row.detach(), losses.present
        if self.ranks.size == 1:
            return StepObservation(observe_losses(values, self.weighting.find_non_finite(values), present))
        marked = torch.stack([values, present.to(values.dtype)])
        (values, marks), non_finite = average_over_ranks(marked, present, is_non_finite(values), self.ranks)
        return StepObservation(observe_losses(values, non_finite, marks > 0))


class SharedNorms(NormSource):
    """The norms of this very step, with respect to given tensors: one partial backward pass for each loss.

    Args:
        shared: The tensors.
        probes: Whether magnitudes are wanted, and whether there was a backward pass.
        scheme: The name of the scheme, for messages.
    """

    def __init__(self, shared: Tensor | Iterable[Tensor], probes: Probes, scheme: str) -> None:
        self.shared = _check_shared(shared)
        self.probes, self.scheme = probes, scheme

    def observe(self, losses: Losses) -> StepObservation:
        """Returns the losses and norms, averaged over ranks."""
        _check_gradients(self.scheme)
        if not self.probes.has_committed:
            check_static_graph(losses.given.values())
            find_replicas(losses.given.values(), self.probes.ranks)
        values = losses.row.detach()
        entries = [sum(tensor.numel() for tensor in self.shared)] * len(values)
        given = losses.split()
        summed = ParameterGradients(self.shared, len(values), self.probes.ranks)
        differentiate = partial(self._differentiate, list(given), summed)
        norms = measure_each(list(given.values()), differentiate, entries, self.probes.magnitudes, device=values.device)
        rows = torch.cat([values.unsqueeze(0), norms])
        rows, non_finite = average_over_ranks(rows, losses.present, is_non_finite(values), self.probes.ranks)
        rows = summed.add_to(rows, entries[0])
        observation = observe_norms(rows, non_finite)
        return StepObservation(observation, norms=rows[1])

    def _differentiate(
        self,
        terms: list[str],
        summed: ParameterGradients,
        index: int,
        loss: Tensor,
        factor: Tensor,
        accumulator: NormAccumulator,
    ) -> None:
        with partial_backward():
            gradients = torch.autograd.grad(loss, self.shared, factor, retain_graph=True, allow_unused=True)
        if all(gradient is None for gradient in gradients):
            raise ValueError(
                f"`shared` must be what the losses are computed from, and {terms[index]!r} depends on none of its "
                f"{len(gradients)} tensors: give activations of this forward pass or parameters as the loss uses them "
                "(which those under `fully_shard` are not: use probes)."
            )
        for tensor, gradient in zip(self.shared, gradients, strict=True):
            if gradient is not None and not summed.take(index, tensor, gradient):
                accumulator.add(index, gradient)


class ProbeNorms(NormSource):
    """The norms that the last backward pass has measured; in the first step of a term, those of the step itself.

    Args:
        probes: The probes.
        scheme: The name of the scheme, for messages.
    """

    def __init__(self, probes: Probes, scheme: str) -> None:
        self.probes, self.scheme = probes, scheme

    def observe(self, losses: Losses) -> StepObservation | None:
        """Returns the losses and norms, averaged over ranks; nothing where gradients are switched off, nor twice."""
        probes, names = self.probes, losses.names
        is_known = probes.known.issuperset(names)
        if probes.is_observed or not (torch.is_grad_enabled() or any(map(probes.is_new, names))):
            return None
        _check_gradients(self.scheme)
        if not is_known or not probes.has_committed:  # and not at every step, for it walks the graph
            find_replicas(losses.given.values(), probes.ranks)
            self._warn_of_parameters()
        if not is_known and not probes.has_committed:
            check_static_graph(losses.given.values())
        self._check_probed(names)
        rows, non_finite = probes.last_step(losses) if is_known else probes.ahead(losses)
        return StepObservation(observe_norms(rows, non_finite))

    def _warn_of_parameters(self) -> None:
        """Warns once that norms at parameters are those of each rank's gradient, not of the mean over ranks."""
        ranks = self.probes.ranks
        if self.probes.open.aliases and ranks.size > ranks.replicas and not ranks.has_warned:
            ranks.has_warned = True
            warn_user(
                f"`probe_parameters` on {ranks.size} ranks measures the gradient of each rank's own data, whose norm "
                f"differs from that of the whole batch by a factor of up to {ranks.size**0.5:.3g}, about the same for "
                "all terms: give `shared=list(module.parameters())` for norms of the whole batch."
            )

    def _check_probed(self, names: list[str]) -> None:
        unprobed = [term for term in names if term not in self.probes.probed]
        if unprobed:
            raise ValueError(
                f"{self.scheme} needs the gradients of {unprobed}, and found no probe. Mark the activation where the "
                f'branch of a term begins, `h = criterion.probe("{unprobed[0]}", h)`, or call '
                "`criterion.probe_inputs`; run the module of a term that differentiates by "
                "`criterion.probe_parameters`; or give `shared=`, the tensors or parameters that the terms share."
            )


def _check_gradients(scheme: str) -> None:
    if not torch.is_grad_enabled():
        raise ValueError(
            f"{scheme} needs the gradients of the losses, and gradients are switched off: call the criterion outside "
            "of `torch.no_grad()`, or switch it to evaluation by `criterion.eval()`."
        )


def _check_shared(shared: Tensor | Iterable[Tensor]) -> list[Tensor]:
    if isinstance(shared, nn.Module) or not isinstance(shared, Iterable):
        raise TypeError(
            f"`shared` must be one or more tensors, got {type(shared).__name__}: give the parameters of the layers "
            "that the terms share, such as `net.trunk.parameters()`."
        )
    tensors = [shared] if isinstance(shared, Tensor) else list(shared)
    if not tensors or not all(isinstance(tensor, Tensor) and tensor.requires_grad for tensor in tensors):
        raise ValueError(
            f"`shared` must be one or more tensors that require a gradient, got {len(tensors)} of which some do not."
        )
    return tensors
