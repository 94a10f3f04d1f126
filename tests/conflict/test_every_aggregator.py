"""Properties that every aggregator guarantees, for every YAML in ``conf/conflict/``."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lossbalance.conflict import Aggregator, FromTorchJD, PCGrad

CONF = Path(__file__).parents[2] / "conf" / "conflict"
AGGREGATORS = sorted(path.stem for path in CONF.glob("*.yaml") if path.stem != "none")
INF, NAN = float("inf"), float("nan")
TERMS = ("first", "main", *(f"term_{index}" for index in range(2, 32)))


def make(name: str, own: bool = False, terms: Sequence[str] = TERMS) -> Aggregator:
    """Makes the aggregator of the YAML; with ``own``, adapters to another package are skipped."""
    if name == "upgrad" and (own or not find_spec("quadprog")):
        pytest.skip("its solver runs on the CPU" if own else "needs lossbalance[torchjd-solvers]")
    aggregator = instantiate(OmegaConf.load(CONF / f"{name}.yaml"))
    aggregator.set_terms(terms)
    return aggregator


def products(count: int, seed: int = 0, size: int = 6) -> Tensor:
    """Inner products of gradients of different lengths, some of which conflict."""
    draw = torch.Generator().manual_seed(seed)
    gradients = torch.randn(count, size, generator=draw, dtype=torch.float64)
    gradients *= torch.logspace(0, 1.5, count, dtype=torch.float64).unsqueeze(1)
    return gradients @ gradients.T


@pytest.fixture(params=AGGREGATORS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def test_there_is_a_yaml_for_each_aggregator():
    classes = {OmegaConf.load(CONF / f"{name}.yaml")._target_.rsplit(".", 1)[1] for name in AGGREGATORS}
    ours = [each for each in Aggregator.__subclasses__() if each.__module__.startswith("lossbalance.")]
    assert classes == {aggregator.__name__ for aggregator in ours}


@pytest.mark.parametrize("factor", [2.0**16, 1e-9, 1e-25])
def test_a_factor_that_all_gradients_share_changes_nothing(name, factor):
    torch.testing.assert_close(make(name)(products(4) * factor**2), make(name)(products(4)))


@pytest.mark.parametrize("absent", [0, 1, 2])
def test_an_absent_term_leaves_the_others_what_they_would_get_without_it(name, absent):
    gramian = products(3)
    gramian[absent] = gramian[:, absent] = 0
    rest = [index for index in range(3) if index != absent]
    multipliers = make(name)(gramian)
    assert multipliers[absent] == 0
    if TERMS[absent] == "main" and name in ("protect", "gate"):
        assert multipliers[rest].tolist() == [1.0, 1.0]
    else:
        torch.testing.assert_close(
            multipliers[rest], make(name, terms=[TERMS[i] for i in rest])(gramian[rest][:, rest])
        )


@pytest.mark.parametrize("broken", [NAN, INF, -INF, 0.0])
def test_a_zero_or_non_finite_matrix_gives_the_plain_sum_and_updates_no_state(name, broken):
    aggregator = make(name)
    gramian = products(3) * 0 if broken == 0 else products(3)
    gramian[1, 1] = broken
    before = {key: value.clone() for key, value in aggregator.state_dict().items()}
    assert aggregator(gramian).tolist() == [1.0, 1.0, 1.0]
    torch.testing.assert_close(aggregator.state_dict(), before, rtol=0, atol=0)


def test_the_order_of_the_terms_does_not_matter(name):
    count = 2 if name == "pcgrad" else 4  # the order is random for more
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    gramian = products(count)
    reordered = make(name, terms=[TERMS[index] for index in order])
    torch.testing.assert_close(reordered(gramian[order][:, order]), make(name)(gramian)[order])


def test_linearly_dependent_gradients_give_finite_multipliers(name):
    for gradients in ([[1.0], [1.0], [2.0]], [[1.0], [-1.0]], [[1.0, 0.0], [-2.0, 1e-6], [1.0, 0.0]]):
        rows = torch.tensor(gradients)
        multipliers = make(name)(rows @ rows.T)
        assert multipliers.isfinite().all()
        assert (multipliers @ rows).norm() <= 2 * rows.norm(dim=1).sum()


def test_single_and_double_precision_agree(name):
    gramian = products(4, size=12)
    single = make(name)(gramian.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), make(name)(gramian), rtol=1e-4, atol=1e-5)


def test_many_terms_give_finite_multipliers(name):
    multipliers = make(name)(products(32, size=200).float())
    assert multipliers.isfinite().all()
    assert multipliers.any()


class SyncCounter(TorchDispatchMode):
    """Counts host-device synchronizations."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_it_never_synchronizes_with_the_device(name):
    aggregator = make(name, own=True)
    with SyncCounter() as counter:
        aggregator(products(3))
    assert counter.count == 0


def test_it_compiles_into_one_graph(name):
    torch._dynamo.reset()
    compiled = torch.compile(make(name, own=True), fullgraph=True, backend="eager")
    plain = make(name)
    for seed in range(2):
        torch.testing.assert_close(compiled(products(3, seed)), plain(products(3, seed)))
    torch.testing.assert_close(compiled.state_dict(), {f"_orig_mod.{k}": v for k, v in plain.state_dict().items()})


def test_a_module_cast_to_bfloat16_keeps_the_precision_of_its_state(name):
    aggregator = make(name).bfloat16()
    torch.testing.assert_close(aggregator(products(3)), make(name)(products(3)))


def test_evaluation_updates_no_state():
    aggregator = PCGrad().eval()
    aggregator(products(3))
    assert aggregator.draw == PCGrad().draw


def test_a_module_that_is_no_weighting_of_torchjd_is_refused():
    with pytest.raises(TypeError, match=r"`weighting` must be a weighting of TorchJD .*, such as UPGradWeighting\(\)"):
        FromTorchJD(torch.nn.Linear(2, 2))
