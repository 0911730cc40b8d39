"""From a recipe to what its first step needs: the device, the network, the ranks, the state."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from open_mythos.data.batch import BatchSource
from open_mythos.errors import ConfigError
from open_mythos.model.mythos import OpenMythos
from open_mythos.parallel.apply import apply, distribute
from open_mythos.parallel.ranks import ALONE, Ranks
from open_mythos.parallel.spread import Spread
from open_mythos.train.curriculum import start as first_level
from open_mythos.train.optim import build_optimizer
from open_mythos.train.precision import DTYPES, Working, resolve
from open_mythos.train.recipe import Recipe
from open_mythos.train.spikes import Spikes
from open_mythos.train.starting import start_from
from open_mythos.train.state import TrainState


# Rows of an embedding come in multiples of this, for the products with it.
ALIGNED = 64


def build_model(recipe: Recipe) -> nn.Module:
    """The network of a recipe, its weights drawn from the seeded default generator or read.

    Raises:
        CheckpointError: If what it starts from is not there, or of another network.
        ConfigError: Likewise, naming the field.
    """
    model = OpenMythos(recipe.model)
    if recipe.init_from:
        start_from(model, recipe)
    if recipe.objective.gate_entropy:
        model.recurrent.train_gate()
    return model


def build_state(
    recipe: Recipe,
    source: BatchSource,
    device: torch.device,
    build: Callable[[Recipe], nn.Module] = build_model,
    ranks: Ranks = ALONE,
) -> TrainState:
    """The state before the first step. Seeds torch's default generators for weights and dropout.

    Weights are drawn on the CPU, so that one seed gives one network on every device and rank.

    Raises:
        ConfigError: If the network cannot be spread over these ranks.
    """
    torch.manual_seed(recipe.seed)
    model = build(recipe)
    n_parameters = sum(p.numel() for p in model.parameters())
    engine = recipe.engine
    if ranks.world == 1:
        model, spread = model.to(device), Spread()
        working = Working(model, engine.precision)
        runs = working.model
        if (engine.compile or engine.checkpoint) and isinstance(runs, OpenMythos):
            apply(runs, compiled=engine.compile, checkpointed=engine.checkpoint)
    else:
        spread = spread_out(model, recipe, device)
        working = Working(model, "fp32")  # the ranks' own policy narrows what is computed in
        working.precision = resolve(engine.precision, device)
        torch.manual_seed(dropout_seed(recipe.seed, spread.data_rank))
    state = TrainState(
        model=model,
        optimizer=build_optimizer(model, recipe.optim),
        device=device,
        curriculum=first_level(recipe.curriculum, source.max_level),
        spread=spread,
        n_parameters=n_parameters,
    )
    state.working = working
    state.spikes = Spikes.start(device) if recipe.optim.skip_spikes else None
    return state


def spread_out(model: nn.Module, recipe: Recipe, device: torch.device) -> Spread:
    """The network on the ranks of the running process group, as the recipe divides it.

    Raises:
        ConfigError: If it cannot be divided so, or computes in what many ranks do not offer.
    """
    from open_mythos.parallel.mesh import open_mesh  # noqa: PLC0415 -- a second, for many ranks only

    if not isinstance(model, OpenMythos):
        raise ConfigError(
            f"{type(model).__name__} is no OpenMythos, which alone is spread over several ranks; "
            "run it in one process, or wrap it yourself and train it by `launch` and `finish`"
        )
    if recipe.optim.kind == "muon" and recipe.parallel.tensor > 1:
        raise ConfigError(
            f"optim.kind is muon with parallel.tensor={recipe.parallel.tensor}: a matrix of which "
            "each rank holds a part would be made orthogonal part by part; use adamw, or "
            "parallel.shard instead of parallel.tensor"
        )
    precision = resolve(recipe.engine.precision, device)
    if precision == "fp16":
        raise ConfigError(
            "engine.precision is fp16, whose loss scale is kept by one process; on several ranks "
            "use bf16 (any GPU since Ampere) or fp32"
        )
    return distribute(
        model,
        open_mesh(recipe.parallel, device),
        dtype=DTYPES.get(precision),
        compiled=recipe.engine.compile,
        checkpointed=recipe.engine.checkpoint,
    )


def dropout_seed(seed: int, data_rank: int) -> int:
    """A seed for what a rank draws by itself, far from those of other ranks and runs."""
    words = np.random.SeedSequence(seed, spawn_key=(data_rank,)).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def find_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """The device that a recipe names; "auto" is the accelerator if there is one, else the CPU.

    Of several ranks each has the accelerator of its own number on its machine.

    Raises:
        ConfigError: If torch knows no such device, or it is not here.
    """
    if name == "auto":
        # Without a check, a CUDA build of torch names CUDA on a machine that has no GPU.
        found = torch.accelerator.current_accelerator(check_available=True)
        name = "cpu" if found is None else str(found)
    if ranks.world > 1 and name == "cuda":
        name = f"cuda:{ranks.local_rank}"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"device {name!r} cannot be used here ({reason}); try 'auto'") from None
    return device


def refuse_small_vocabulary(recipe: Recipe, source: BatchSource) -> None:
    """Refuse data whose ids the model has no embedding for.

    Raises:
        ConfigError: Naming both sizes.
    """
    if source.vocab_size > recipe.model.vocab_size:
        padded = -(-source.vocab_size // ALIGNED) * ALIGNED
        raise ConfigError(
            f"the data has {source.vocab_size} token ids, model.vocab_size is "
            f"{recipe.model.vocab_size}; set model.vocab_size={padded} or more"
        )
