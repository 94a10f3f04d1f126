"""Integrations with training loops other than Lightning's: any loop of one's own, Hugging Face's Trainer."""

from lossbalance.integrations.loop_monitor import LoopMonitor

__all__ = ["LoopMonitor"]
