"""The places in a model at which gradients are measured, and combined."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from lossbalance._utils.distributed import world_size
from lossbalance.conflict.base import Aggregator
from lossbalance.gradients.branch import Branches
from lossbalance.gradients.branch_output import BranchHandle
from lossbalance.gradients.data_parallel import active_wrapper, check_even_inputs, touch_unused
from lossbalance.gradients.inputs import ProbedModule, ProbeHandle
from lossbalance.gradients.probes import Probes
from lossbalance.weighting.base import Losses


class GradientPlaces(nn.Module):
    """Marks places in a model: the part of :class:`~lossbalance.WeightedLoss` that its forward pass meets.

    Args:
        terms: Names of the losses, in the order of the row.
        conflict: What the gradients of the terms are combined by at a branch; None is the plain sum.

    Raises:
        TypeError: If ``conflict`` is not an aggregator.
    """

    def __init__(self, terms: tuple[str, ...], conflict: Aggregator | None) -> None:
        super().__init__()
        if not isinstance(conflict, Aggregator | None):
            raise TypeError(f"`conflict` must be an aggregator such as PCGrad() or None, got {conflict!r}.")
        self.terms = terms
        """Names of the losses, in the order of the row."""
        self.conflict = conflict
        self.probes = Probes(terms)
        self.branches = Branches(self.probes)

    def probe(self, term: str, x: Tensor) -> Tensor:
        """Marks ``x`` as the activation at which the gradient of ``term`` is measured.

        Put it where the term's own branch begins, and use what it returns for that branch alone::

            h = trunk(x)
            aux = aux_head(criterion.probe("aux", h))
            main = main_head(criterion.probe("main", h))

        It is the identity, costs one norm in the backward pass of the total, the one in which it measures, and does
        nothing in ``eval()``. Several probes of one term add up in squares. What it returns must not be changed in
        place, as ``nn.ReLU(inplace=True)`` would do at the start of a branch. A loss on derivatives of what was probed
        needs :meth:`probe_parameters`.

        Args:
            term: The name of the term.
            x: The activation, of any shape.

        Returns:
            ``x``, to be used in its place.

        Raises:
            TypeError: If ``x`` is not in floating point.
            ValueError: If the term is unknown or ``x`` on another device than the criterion.
        """
        return self.probes.attach_probe(term, x)

    def probe_inputs(self, modules: Mapping[str, nn.Module]) -> ProbeHandle:
        """Places a probe before each module, for models that are not to be edited.

        It probes every tensor that enters the module and requires a gradient, also in mappings, sequences and
        dataclasses.

        Args:
            modules: The module in which each term's own branch begins, such as its head, by term.

        Returns:
            A handle whose ``remove()`` takes the probes away.

        Raises:
            TypeError: If it is not a mapping to modules.
            ValueError: If a term is unknown, or a module begins with a layer that works in place.
        """
        return ProbeHandle(modules, self.probes)

    def probe_parameters(self, term: str, module: nn.Module) -> ProbedModule:
        """Returns a callable that runs ``module`` with its parameters seen through probes of ``term``.

        For terms with forward passes of their own, also where a loss is made of derivatives, as in a network that
        solves a differential equation::

            residual_net, boundary_net = (criterion.probe_parameters(term, net) for term in ("residual", "boundary"))
            u = residual_net(x)
            (du,) = torch.autograd.grad(u.sum(), x, create_graph=True)
            total = criterion({"residual": (du - f).square().mean(), "boundary": boundary_net(x0).square().mean()})

        What is measured is the whole gradient of the term by the parameters, in the one ordinary backward pass. Make
        the callable once; call it as often as the term needs. In ``eval()`` and without gradients it is the module.

        Args:
            term: The name of the term.
            module: What the term's loss is computed with; may be the same for all terms.

        Raises:
            TypeError: If it is not a module, or one of ``fully_shard``, whose parameters are in parts.
            ValueError: If the term is unknown, or no parameter requires a gradient.
        """
        return ProbedModule(module, term, self.probes)

    def branch(self, h: Tensor) -> dict[str, Tensor]:
        """Returns ``h`` for each term: where ``conflict`` combines their gradients, in the one backward pass.

        Put it where the terms part, and give each term's own branch its own::

            h = criterion.branch(trunk(x))
            losses = {"aux": aux_loss(aux_head(h["aux"])), "main": main_loss(head(h["main"]))}

        The layers before it get what the aggregator makes of the weighted gradients; those behind it, the heads, keep
        their own. It is a probe of each term, too, and ``last.cosines`` has the cosines between the gradients, also
        without an aggregator. What it returns must not be changed in place. Under an activation checkpoint use
        ``use_reentrant=False``. In ``eval()`` and without gradients it is the identity.

        Args:
            h: The activation, of any shape.

        Raises:
            TypeError: If ``h`` is not in floating point.
            ValueError: If ``h`` is on another device than the criterion.
        """
        return self.branches.split(h, self.conflict)

    def branch_output(self, module: nn.Module, heads: Mapping[str, nn.Module]) -> BranchHandle:
        """Lets what enters the heads pass :meth:`branch`, for models that are not to be edited.

        Args:
            module: What all terms share, such as the trunk: after each of its calls the heads are entered by one
                tensor, its output or what is computed of it.
            heads: The module in which each term's own branch begins, by term.

        Returns:
            A handle whose ``remove()`` takes the branch away.

        Raises:
            ValueError: If a term is unknown; in a step, if different tensors enter the heads.
        """
        return BranchHandle(module, heads, self.branch, self.branches)

    def branch_parameters(self, module: nn.Module) -> dict[str, Callable[..., Any]]:
        """Returns, for each term, a callable that runs ``module``: the branch is at its parameters.

        For terms with forward passes of their own, also where a loss is made of derivatives::

            net = criterion.branch_parameters(network)
            losses = {"residual": residual(net["residual"], x), "boundary": net["boundary"](x0).square().mean()}

        Each parameter gets what the aggregator makes of the terms' gradients over all parameters. Make the callables
        once, call them as often as a term needs.

        Raises:
            TypeError: If it is not a module, or one of ``fully_shard``, whose parameters are in parts.
            ValueError: If no parameter requires a gradient.
        """
        return self.branches.split_parameters(module, self.conflict)

    def _find_wrapper(self, module: nn.Module | None) -> DistributedDataParallel | None:
        """Returns the wrapper that the step goes through, where one can be seen."""
        if torch.compiler.is_compiling() or world_size() == 1:
            return None
        return module if isinstance(module, DistributedDataParallel) else active_wrapper() or self.probes.open.wrapper

    def _close_step(self, total: Tensor, losses: Losses, wrapper: DistributedDataParallel | None) -> Tensor:
        """Returns the total, connected to the branches of the step and to what its absent terms leave unused."""
        if self.branches.has_opened:
            check_even_inputs(wrapper)
        total = self._close_branches(total)
        if wrapper is not None and len(losses.names) < len(self.terms):
            total = touch_unused(total, wrapper)
        return total

    def _close_branches(self, total: Tensor) -> Tensor:
        """Returns the total, connected to the branches of the step."""
        if self.conflict is not None and not self.branches.has_opened and total.requires_grad:
            name = type(self.conflict).__name__
            raise ValueError(
                f"{name} combines gradients where the terms part, and found no branch: call `criterion.branch` there "
                "in each step, or once `criterion.branch_output`, or `criterion.branch_parameters` for terms with "
                "forward passes of their own. Under an activation checkpoint use `use_reentrant=False`."
            )
        return self.branches.close(total)
