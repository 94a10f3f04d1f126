"""Function transforms and export: checks for operations that they exclude."""

import torch
from torch.torch_version import TorchVersion

_TELLS_EXPORTS = TorchVersion(torch.__version__) >= "2.13"  # a compiler that exports from one that does not


def refuse_transforms(what: str) -> None:
    """Refuses to work inside ``torch.func.grad``, ``vmap`` and the like, and inside ``torch.export``.

    Args:
        what: What cannot be done there, for the message.

    Raises:
        RuntimeError: If it is inside one.
    """
    cure = "switch the criterion to evaluation by `criterion.eval()` there"
    if is_exporting():
        raise RuntimeError(f"{what} is not possible while it is exported: {cure}.")
    if is_transforming():
        raise RuntimeError(
            f"{what} is not possible inside a transform of torch.func (functorch), such as grad or vmap: differentiate "
            f"by torch.autograd, or {cure}."
        )


def is_transforming() -> bool:
    """Returns whether a transform of ``torch.func`` runs the code: its tensors are void afterwards."""
    return not torch.compiler.is_compiling() and torch._C._functorch.peek_interpreter_stack() is not None


def is_exporting() -> bool:
    """Returns whether ``torch.export`` runs the code; older compilers say so of themselves, too."""
    return torch.compiler.is_exporting() and (_TELLS_EXPORTS or not torch.compiler.is_dynamo_compiling())
