"""Whether somebody looks into a layer: what is fused or captured must then be run as written."""

from torch import nn


def patched(module: nn.Module) -> bool:
    """Whether somebody replaced the module's forward on the instance, or hooked it."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return "forward" in vars(module) or any(hooks)
