"""Penalties: regularizers on parameters."""
