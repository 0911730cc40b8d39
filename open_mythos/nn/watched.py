"""Whether somebody looks into a layer: what is fused or captured must then be run as written."""

from torch import nn


# The package that this file is part of: what its layers are, its layers know.
OURS = __name__.partition(".")[0]


def foreign(module: nn.Module) -> bool:
    """Whether the module is of somebody else's class: its weight then does not say all it does.

    LoRA and quantisation put such modules in place of ours.
    """
    return type(module).__module__.partition(".")[0] not in ("torch", OURS)


def patched(module: nn.Module) -> bool:
    """Whether somebody replaced the module, or its forward on the instance, or hooked it."""
    hooks = (
        module._forward_hooks,
        module._forward_pre_hooks,
        module._backward_hooks,
        module._backward_pre_hooks,
    )
    return "forward" in vars(module) or any(hooks) or foreign(module)
