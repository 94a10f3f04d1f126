r"""Branch node: gathers the gradients of all terms at a shared activation and combines them.

A branch is the identity with one output for each term. Its backward pass starts when the gradients of all terms have
arrived, :math:`g_1, \dots, g_K`, so it can hand on any combination of them:

1. It computes the matrix of their inner products :math:`G_{ij} = g_i \cdot g_j`. The norms go where those of probes do.
2. It averages the matrix over ranks, by one collective. Every rank takes part, also one that lacks terms, for each
   total is connected to its branches by an *anchor*, an output that is always 0.
3. An aggregator makes multipliers :math:`m` of it, and :math:`\sum_i m_i g_i` is handed on.
4. The matrix is left behind as the gradient of a leaf, for cosines: so it is in a compiled graph, too.

Only the backward pass of the total is combined; the anchor identifies it. A derivative on the way to a loss, one
that is differentiated in its turn, and the norms ahead of the first step get the plain sum.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lossbalance._utils.distributed import Ranks
from lossbalance.gradients.data_parallel import walk
from lossbalance.gradients.inputs import check_parameters, trained_parameters
from lossbalance.gradients.measurement import Measurement, is_in_backward, version
from lossbalance.gradients.probes import Probes
from lossbalance.gradients.products import Gradients, add_up, combine, flatten, multiply
from lossbalance.gradients.traced import spread

Aggregate = Callable[[Tensor], Tensor]
"""Makes multipliers ``[terms]`` of the inner products ``[terms, terms]``."""


class Branches:
    """The branches of the steps of a criterion.

    Args:
        probes: Measure the norms.
    """

    def __init__(self, probes: Probes) -> None:
        self.probes = probes
        self._usual = 0  # how many the last step had

    @property
    def splits(self) -> bool:
        """Whether there are gradients to be combined."""
        return self.probes.training and torch.is_grad_enabled()

    @property
    def has_opened(self) -> bool:
        """Whether the open step has a branch."""
        return len(self.probes.open.anchors) > 0

    def split(self, h: Tensor, aggregate: Aggregate | None) -> dict[str, Tensor]:
        """Returns ``h`` for each term, and combines what comes back; None for ``aggregate`` is the plain sum."""
        if not isinstance(h, Tensor) or not h.is_floating_point():
            got = h.dtype if isinstance(h, Tensor) else type(h).__name__
            raise TypeError(f"`h` must be an activation in floating point, got {got}: branch what enters the heads.")
        if hasattr(h, "full_tensor"):
            raise TypeError("`h` must be an ordinary tensor to be branched, got a DTensor: branch `h.full_tensor()`.")
        if not self.splits:
            return dict.fromkeys(self.probes.terms, h)
        parts = self._apply([h], aggregate)
        return {term: part for term, (part,) in zip(self.probes.terms, parts, strict=True)}

    def split_parameters(self, module: nn.Module, aggregate: Aggregate | None) -> dict[str, Callable[..., Any]]:
        """Returns, for each term, what runs ``module`` with its parameters as the term sees them in the open step."""
        check_parameters(module)
        return {term: partial(self._run, i, module, aggregate) for i, term in enumerate(self.probes.terms)}

    def adopt(self, total: Tensor, aggregator: object) -> None:
        """Drops the branches that do not belong to the total: of other forward passes, or of a step that has ended.

        Args:
            total: The total.
            aggregator: What needs a branch, or None.

        Raises:
            ValueError: If it has none.
        """
        step = self.probes.open
        is_certain = len(step.anchors) <= max(self._usual, 1) and not step.is_successor
        if step.anchors and not (is_certain or torch.compiler.is_compiling()):
            self._drop_unused(total, step)
        if aggregator is not None and total.requires_grad and not step.anchors:
            raise ValueError(
                f"{type(aggregator).__name__} combines gradients where the terms part, and found no branch: call "
                "`criterion.branch` there in each step, or once `criterion.branch_output`, or "
                "`criterion.branch_parameters` for terms with forward passes of their own. Under an activation "
                "checkpoint use `use_reentrant=False`."
            )

    def close(self, total: Tensor) -> Tensor:
        """Ends the open step: returns its total, connected to its branches."""
        step = self.probes.open
        step.called = True
        step.remembered = None
        self._usual = len(step.anchors)
        for anchor in step.anchors:
            total = total + anchor
        if step.anchors and torch.compiler.is_compiling():
            self.probes.leaves.products.grad = None
        return total

    def products(self, step: Measurement | None = None) -> Tensor:
        """Returns the inner products of the weighted gradients of a step ``[terms, terms]``; nan where unknown.

        Args:
            step: The step; None for the last one.
        """
        leaf = self.probes.leaves.products
        found = (step or self.probes.open).products
        if found is None:  # in a compiled graph it is the gradient of the leaf
            found = torch.full_like(leaf, torch.nan) if leaf.grad is None else leaf.grad
        return found

    def _drop_unused(self, total: Tensor, step: Measurement) -> None:
        """Drops the anchors that are out of reach; of a step to come as many stay as the last one had, if all are."""
        nodes = set(walk([total.grad_fn]))
        used = [anchor for anchor in step.anchors if anchor.grad_fn in nodes]
        step.anchors = used or ([] if step.is_successor else step.anchors[-max(self._usual, 1) :])

    def _run(self, index: int, module: nn.Module, aggregate: Aggregate | None, *args: Any, **kwargs: Any) -> Any:
        if not self.splits:
            return module(*args, **kwargs)
        branches, parameters = self.probes.join().branches, trained_parameters(module)
        now = [version(parameter) for parameter in parameters.values()]
        found = branches.get(id(module))
        if found is None or found[0] != now:  # an optimizer has stepped since
            parts = self._apply(list(parameters.values()), aggregate)
            found = branches[id(module)] = now, [dict(zip(parameters, part, strict=True)) for part in parts]
        return torch.func.functional_call(module, found[1][index], args, kwargs)

    def _apply(self, tensors: list[Tensor], aggregate: Aggregate | None) -> list[tuple[Tensor, ...]]:
        """Returns the tensors once for each term."""
        probes, size = self.probes, len(tensors)
        step = probes.join()
        for tensor in tensors:
            probes.register(probes.terms, tensor)
        leaves, compiling = probes.leaves, torch.compiler.is_compiling()
        column = step.column(range(len(probes.terms)), probes.magnitudes) if compiling else 0
        *parts, anchor = _Branch.apply(
            leaves.products, leaves.sizes, step, aggregate, probes.magnitudes, column, probes.ranks, *tensors
        )
        if compiling or not is_in_backward():
            step.anchors.append(anchor)
        return [tuple(parts[i : i + size]) for i in range(0, len(parts), size)]


class _Branch(torch.autograd.Function):
    """The identity on the tensors, once for each term; the gradients of the leaves are what is measured."""

    @staticmethod
    def forward(
        ctx: Any,
        products: Tensor,
        sizes: Tensor,
        step: Measurement,
        aggregate: Aggregate | None,
        magnitudes: bool,
        column: int,
        ranks: Ranks,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.step, ctx.aggregate, ctx.leaf = step, aggregate, sizes
        ctx.magnitudes, ctx.column, ctx.ranks = magnitudes, column, ranks
        ctx.shapes, ctx.dtypes = [x.shape for x in tensors], [x.dtype for x in tensors]
        # The compiler rebuilds a view that leaves its graph from the base, and would lose the node.
        compiling = torch.compiler.is_compiling()
        parts = [x.clone() if compiling else x.view_as(x) for _ in range(len(products)) for x in tensors]
        return *parts, products.new_zeros(())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        *parts, anchor = gradients
        size = len(ctx.shapes)
        by_term = [parts[i : i + size] for i in range(0, len(parts), size)]
        compiling = torch.compiler.is_compiling()
        if not compiling and anchor is None:
            return *(None,) * 7, *_hand_on(ctx, by_term)
        rows = flatten(by_term, ctx.shapes, ctx.leaf)
        products = multiply(rows.detach())  # what the gradients are multiplied by is a constant, as weights are
        sizes = _report(ctx, by_term, products.diagonal(), rows.detach())
        if ctx.ranks.size > 1:
            products = ctx.ranks.sum(products) / ctx.ranks.size
        if not compiling:
            step = ctx.step
            step.products = products if step.products is None else step.products + products
        if ctx.aggregate is None:
            return products if compiling else None, sizes, *(None,) * 5, *add_up(by_term)
        combined = combine(ctx.aggregate(products).detach(), rows, ctx.shapes, ctx.dtypes)
        return products if compiling else None, sizes, *(None,) * 5, *combined


def _hand_on(ctx: Any, by_term: Gradients) -> list[Tensor | None]:
    """Returns the plain sums, and lets each gradient be measured as a probe does."""
    received = [
        [None if gradient is None else ctx.step.receive(index, gradient, ctx.leaf) for gradient in gradients]
        for index, gradients in enumerate(by_term)
    ]
    return add_up(received)


def _report(ctx: Any, by_term: Gradients, squares: Tensor, rows: Tensor) -> Tensor | None:
    """Takes norms and magnitudes to the step; in a compiled graph they are returned, for the gradient of the leaf."""
    magnitudes = (rows.abs().amax(dim=1), rows.abs().sum(dim=1)) if ctx.magnitudes else ()
    if torch.compiler.is_compiling():
        largest, sums = magnitudes or (torch.zeros_like(squares),) * 2
        return spread(squares, largest, sums, ctx.column)
    step = ctx.step.measured()
    if step is not None and step.accumulator is not None:
        columns = [sizes.unbind() for sizes in (squares.sqrt(), *magnitudes)]
        for index, sizes in enumerate(zip(*columns, strict=True)):
            if any(gradient is not None for gradient in by_term[index]):
                step.accumulator.add_measured(index, sizes)
    return None
