"""The configuration: its types, and checks that need neither torch nor the run directory."""
