"""Norms of the gradients of each term, measured in one backward pass."""
