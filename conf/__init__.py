"""The configuration of the command line, and groups for other Hydra applications: ``pkg://lossbalance.conf``."""
