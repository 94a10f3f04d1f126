"""A physics-informed network: the Helmholtz equation in two dimensions, with a known solution."""

from lossbalance.tasks.pinn.data import CollocationPoints
from lossbalance.tasks.pinn.equation import Helmholtz
from lossbalance.tasks.pinn.module import PINNModule
from lossbalance.tasks.pinn.network import TanhNet

__all__ = ["CollocationPoints", "Helmholtz", "PINNModule", "TanhNet"]
