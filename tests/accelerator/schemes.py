"""Every scheme of ``conf/loss/``, for any terms."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from hydra.utils import instantiate
from omegaconf import OmegaConf

from lossbalance.weighting import Weighting

_CONFIGS = Path(__file__).parents[2] / "conf" / "loss"
SCHEMES = sorted(
    path.stem for path in _CONFIGS.glob("*.yaml") if path.stem != "scalarizer" or find_spec("torchjd") is not None
)


def make_scheme(name: str, terms: Sequence[str]) -> Weighting:
    """Returns the scheme of ``conf/loss/<name>.yaml`` for the terms; what it has for each term, it has once for all."""
    loss = OmegaConf.load(_CONFIGS / f"{name}.yaml")
    for setting in ("weights", "limits"):
        if setting in loss:
            loss[setting] = dict.fromkeys(terms, next(iter(loss[setting].values())))
    return instantiate(OmegaConf.create({"task": {"terms": list(terms)}, "alpha": 0.3, "loss": loss}).loss)
