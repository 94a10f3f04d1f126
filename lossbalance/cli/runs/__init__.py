"""Runs and sweeps: directories, records, progress, isolation."""
