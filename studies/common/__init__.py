"""The scaffold that all studies share: cells, one report, one command line."""
