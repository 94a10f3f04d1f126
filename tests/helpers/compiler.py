"""What the compiler at hand can do."""

import pytest


def skip_where_the_compiler_cannot_differentiate() -> None:
    """Skips a test that compiles what differentiates on the way, as the first step of a gradient scheme does."""
    import torch._dynamo

    if not hasattr(torch._dynamo.config, "trace_autograd_ops"):
        pytest.skip(f"the compiler of torch {torch.__version__} does not trace torch.autograd.grad")
