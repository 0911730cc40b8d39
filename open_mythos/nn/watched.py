"""Whether somebody looks into a layer: what is fused or captured must then be run as written."""

from torch import Tensor, nn

from open_mythos.ops.backend import OURS, plain


def foreign(module: nn.Module) -> bool:
    """Whether the module, or its weight, is of somebody else's class.

    LoRA puts such modules in place of ours, quantisation such weights: what the weight says by
    itself, its numbers or its memory, is then not all that the layer does.
    """
    if type(module).__module__.partition(".")[0] not in ("torch", OURS):
        return True
    weight = getattr(module, "weight", None)
    return isinstance(weight, Tensor) and not plain(weight)


def patched(module: nn.Module) -> bool:
    """Whether somebody replaced the module, or its forward on the instance, or hooked it."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return "forward" in vars(module) or any(hooks) or foreign(module)
