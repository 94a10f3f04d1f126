"""Benchmarks of time and memory, as ratios to plain PyTorch in the same run."""
