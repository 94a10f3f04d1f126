"""Checks, distributed reductions and precision: used everywhere, part of no other folder."""
