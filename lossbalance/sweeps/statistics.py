"""What repeated runs say about settings, and how sure that is."""

from lossbalance.sweeps.comparison import Comparison, lower_is_better
from lossbalance.sweeps.trade_off import TradeOff, default_trade_off, hypervolume, pareto_front, trade_off
from lossbalance.sweeps.verdict import quantity, verdict

__all__ = [
    "Comparison",
    "TradeOff",
    "default_trade_off",
    "hypervolume",
    "lower_is_better",
    "pareto_front",
    "quantity",
    "trade_off",
    "verdict",
]
