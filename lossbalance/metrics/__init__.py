"""Metrics that the callbacks keep while a network trains."""

from lossbalance.metrics.running_means import RunningMeans

__all__ = ["RunningMeans"]
