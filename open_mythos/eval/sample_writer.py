"""SampleWriter: a few continuations of fixed beginnings, to see what a model writes by now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import ClassVar

import torch
from torch import nn

from open_mythos.data.batch import IGNORE
from open_mythos.data.tokenizer import Tokenizer, decode_known
from open_mythos.eval.text_judge import HeldOut, first_rows
from open_mythos.generate.decode import Stop, stream
from open_mythos.generate.sampling import Sampling
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.mode import evaluating


# Tokens of a beginning that is taken from held-out text, and tokens that are written.
PROMPT, WRITTEN = 32, 64
SAMPLING = Sampling(temperature=0.8, top_k=50)
# Stands between what was given and what was written.
MARK = "\u25b8"


@dataclass
class SampleWriter:
    """Continues prompts, with the same draws each time, so that what changes is the model.

    Attributes:
        prompts: Token ids.
        tokenizer: What spells them.
        n_loops: Loops per token.
        seed: Of the draws.
    """

    one_rank: ClassVar[bool] = True

    prompts: Sequence[Sequence[int]]
    tokenizer: Tokenizer
    n_loops: int
    seed: int = 0

    def __call__(self, model: nn.Module, step: int) -> Mapping[str, str]:  # noqa: ARG002
        """The texts by their numbers, from 1; none of a network that cannot generate."""
        if not isinstance(model, OpenMythos):
            return {}
        with torch.inference_mode(), evaluating(model):
            return {
                str(number): self._text(model, list(prompt))
                for number, prompt in enumerate(self.prompts, start=1)
            }

    def _text(self, model: OpenMythos, prompt: list[int]) -> str:
        cfg, device = model.cfg, model.embed.weight.device
        prompt = prompt[: max(1, cfg.max_seq_len // 2)]
        room = min(WRITTEN, cfg.max_output_tokens, cfg.max_seq_len - len(prompt))
        eos = self.tokenizer.eos_id
        # Static decoding would keep a captured graph of its own in memory while training goes on.
        tokens = stream(
            model,
            torch.tensor([prompt], device=device),
            Stop(room, eos),
            SAMPLING,
            self.n_loops,
            torch.Generator(device).manual_seed(self.seed),
            static=False,
        )
        written = [token for token in map(int, tokens) if token != eos]
        return f"{self.tokenizer.decode(prompt)}{MARK}{decode_known(self.tokenizer, written)}"


def prompts_of(texts: Sequence[str], tokenizer: Tokenizer) -> list[list[int]]:
    """Texts as prompts; an empty one begins with the end of text, as a new document does."""
    return [tokenizer.encode(text) or [tokenizer.eos_id or 0] for text in texts]


def held_out_prompts(held_out: HeldOut, count: int) -> list[list[int]]:
    """The beginnings of the first rows of held-out text.

    Where the beginning of a row is not scored, as the question before an answer, it is that.
    """
    rows = chain.from_iterable(
        zip(batch.ids.tolist(), (batch.targets != IGNORE).tolist(), strict=True)
        for batch in first_rows(held_out.evaluation_batches(), count)
    )
    return [
        ids[:PROMPT] if scored[0] or True not in scored else ids[: scored.index(True) + 1]
        for ids, scored in rows
    ]
