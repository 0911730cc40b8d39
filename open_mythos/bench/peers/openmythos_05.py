"""The public open-mythos 0.5.0, from an unpacked wheel: pip download, then unzip."""

import importlib.util
import sys
from dataclasses import fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch.nn import functional as F

from open_mythos.bench.contender import Work, random_ids, sampled, training_step
from open_mythos.bench.floor import prefill_flops, train_flops
from open_mythos.config.mythos import MythosConfig
from open_mythos.errors import InputError
from open_mythos.train.recipe import Precision


MODULE = "openmythos_05_main"
UNREACHED = 1e9  # a halting threshold that no sum of probabilities reaches: every loop runs


def load_module(folder: Path) -> ModuleType:
    """Its main.py under a name of its own; its package has this library's name.

    Raises:
        InputError: If the folder does not hold it.
    """
    path = folder / "open_mythos" / "main.py"
    spec = importlib.util.spec_from_file_location(MODULE, path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise InputError(
            f"{folder} holds no open_mythos/main.py; give the folder of the unpacked 0.5.0 wheel"
        )
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module  # its dataclass looks its own module up
    spec.loader.exec_module(module)
    return module


class OpenMythos05:
    """Float32 weights under autocast where bf16 is asked for: in pure bf16 its forward fails."""

    name = "open-mythos 0.5.0"

    def __init__(
        self, folder: Path, cfg: MythosConfig, device: torch.device, precision: Precision
    ) -> None:
        """The network that `cfg` describes, as far as 0.5.0 knows its fields.

        Raises:
            InputError: If the folder does not hold the library.
        """
        self.module, self.device = load_module(folder), device
        self.loops = cfg.max_loop_iters
        known = {field.name for field in fields(self.module.MythosConfig)}
        values = {k: v for k, v in cfg.to_dict().items() if k in known}
        self.own = self.module.MythosConfig(**{**values, "act_threshold": UNREACHED})
        self.cfg = replace(cfg, dense_hidden=cfg.dim * 4 // 3)  # its own width, for the FLOPs
        self.half = precision == "bf16"

    def train(self, batch: int, seq_len: int) -> Work:
        """Its examples' step: autocast, cross entropy, backward, clip, AdamW."""
        model = self._built()
        ids = random_ids(self.cfg.vocab_size, 2, batch, seq_len, device=self.device)

        def loss() -> torch.Tensor:
            with self._autocast():
                logits = model(ids[0], n_loops=self.loops)
            return F.cross_entropy(logits.float().flatten(0, 1), ids[1].flatten())

        return Work(
            step=training_step(model, loss),
            tokens=batch * seq_len,
            flops=train_flops(self.cfg, self.loops, seq_len) * batch * seq_len,
            shape={"batch": batch, "seq_len": seq_len, "loops": self.loops},
            note="fp32 weights, autocast bf16" if self.half else "fp32",
        )

    def prefill(self, batch: int, seq_len: int) -> Work:
        """One pass into a fresh cache; it computes every position's logits."""
        model = self._built().eval()
        ids = random_ids(self.cfg.vocab_size, batch, seq_len, device=self.device)

        def step() -> None:
            with torch.no_grad(), self._autocast():
                model(ids, n_loops=self.loops, kv_cache={})

        return Work(
            step=step,
            tokens=batch * seq_len,
            flops=prefill_flops(self.cfg, self.loops, seq_len) * batch * seq_len,
            shape={"batch": batch, "seq_len": seq_len, "loops": self.loops},
        )

    def decode(self, batch: int, context: int) -> Work:
        """One token more, sampled. One prompt is read, and its cache repeated for every row."""
        model = self._built().eval()
        ids = random_ids(self.cfg.vocab_size, batch, 1, device=self.device)
        first: dict[str, dict[str, torch.Tensor]] = {}
        with torch.no_grad(), self._autocast():
            prompt = random_ids(self.cfg.vocab_size, 1, context, device=self.device)
            model(prompt, n_loops=self.loops, kv_cache=first)
        cache = {
            key: {name: t.expand(batch, *t.shape[1:]).contiguous() for name, t in entry.items()}
            for key, entry in first.items()
        }
        at = [context]

        def step() -> None:
            with torch.no_grad(), self._autocast():
                logits = model(ids, n_loops=self.loops, kv_cache=cache, start_pos=at[0])
            ids.copy_(sampled(logits[:, -1]))
            at[0] += 1

        return Work(
            step=step,
            tokens=batch,
            shape={"batch": batch, "context": context, "loops": self.loops},
        )

    def _built(self) -> Any:
        with self.device:
            return self.module.OpenMythos(self.own).to(self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.half)
