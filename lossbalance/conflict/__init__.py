"""Aggregators: rules that settle conflicts between the gradients of terms."""
