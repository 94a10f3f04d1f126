"""One training in one process: building, checkpoints, logging, testing."""
