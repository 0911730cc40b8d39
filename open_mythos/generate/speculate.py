"""Self-speculation: few loops draft some tokens, all loops verify them in one pass. Lossless.

Greedy text is the plain one. Of sampled text there are two rules. "coupled": draft and whole model
choose with the same noise, and the whole model's choice counts, so that a seed gives the text that
it gives without a draft. "rejection" (Leviathan et al. 2022, arXiv 2211.17192; Chen et al. 2023,
arXiv 2302.01318) keeps a drafted token with probability min(1, p / q) and draws from the rest of p
otherwise: as many tokens as can be are kept, and texts are distributed as without a draft.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from open_mythos.errors import InputError, did_you_mean
from open_mythos.generate.continuation import Ask, Finish, Token, token_limit
from open_mythos.generate.logprobs import token_logprobs
from open_mythos.generate.noise import Purpose, exponentials, uniforms
from open_mythos.generate.partial import LoopedModel, PartialPass
from open_mythos.generate.rows import Row, choose, probabilities
from open_mythos.generate.static import read


Rule = Literal["coupled", "rejection"]
RULES: tuple[str, ...] = get_args(Rule)


@dataclass(frozen=True)
class Draft:
    """How tokens are drafted.

    Attributes:
        loops: Of each drafted token; fewer than the whole pass has.
        tokens: Drafted before they are verified.
        rule: Which drafted tokens of sampled text are kept; greedy text is the same by both.
    """

    loops: int = 1
    tokens: int = 4
    rule: Rule = "coupled"

    def __post_init__(self) -> None:
        for name in ("loops", "tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"draft {name} is {value!r}; it must be an int >= 1")
        if self.rule not in RULES:
            raise InputError(f"draft rule is {self.rule!r}; {did_you_mean(str(self.rule), RULES)}")


@dataclass
class Tally:
    """What speculation came to so far.

    Attributes:
        rounds: Passes of all loops.
        drafted: Tokens drafted.
        kept: Of these, those in the text.
        written: Tokens of the text.
    """

    rounds: int = 0
    drafted: int = 0
    kept: int = 0
    written: int = 0


class Speculation:
    """One continuation, some tokens per `step`: those of the draft that were right, and one more.

    >>> text = Speculation(model, Ask(ids, params, seed=1), Draft(loops=1, tokens=4), n_loops=8)
    >>> while text.going:
    ...     for token in text.step(): ...
    """

    def __init__(
        self, model: LoopedModel, ask: Ask, draft: Draft, *, n_loops: int | None = None
    ) -> None:
        """Get ready; nothing runs before the first `step`.

        Args:
            model: The network, in evaluation mode, with readout "last".
            ask: What is wanted; no constraint.
            draft: How to draft.
            n_loops: Loops of a whole pass; None is the config's max_loop_iters.

        Raises:
            InputError: If the network's passes cannot be taken apart exactly, there is no room, or
                a constraint is asked for.
        """
        if ask.params.constraint is not None:
            raise InputError("a constraint follows one text and no draft; leave one of them out")
        self.tally = Tally()
        self._ask, self._draft = ask, draft
        self._limit = token_limit(model, ask)
        self._n_loops = model.cfg.max_loop_iters if n_loops is None else n_loops
        self._model = model
        self._output: list[int] = []
        self._ended = self._limit == 0
        room = len(ask.prompt) + max(self._limit, 1)
        self._pass = PartialPass(model, model.new_cache(1, room), self._n_loops, draft.loops)

    @property
    def going(self) -> bool:
        """Whether the text has not ended."""
        return not self._ended

    def end(self) -> None:
        """No further token: the text met a stop string."""
        self._ended = True

    @torch.no_grad()
    def step(self) -> list[Token]:
        """The tokens of one round: at least one, at most `Draft.tokens` + 1.

        Raises:
            InputError: If the text has ended.
        """
        if self._ended:
            raise InputError("the text has ended; ask `going` before `step`")
        cache = self._pass.cache
        known = [*self._ask.prompt, *self._output]
        if cache.length == 0 and len(known) > 1:
            ids = torch.tensor([known[:-1]], device=self._device)
            read(self._model, ids, self._n_loops, cache)
        start = cache.length
        drafts, scores = self._drafts(known[-1])
        logits = self._pass.finish()
        rows = [self._row(drafts[:i]) for i in range(len(drafts) + 1)]
        kept, last = settled(logits, rows, drafts, scores, self._draft.rule)
        cache.truncate(start + kept + 1)
        self.tally.rounds += 1
        self.tally.drafted += len(drafts)
        return self._take([*drafts[:kept], last], kept, logits)

    def _drafts(self, token: int) -> tuple[list[int], Tensor]:
        """Tokens that few loops say, up to an end, and the logits (n, vocab) that they follow."""
        most = min(self._draft.tokens, self._limit - len(self._output) - 1)
        drafts: list[int] = []
        scores: list[Tensor] = []
        while len(drafts) < most and not set(drafts[-1:]) & set(self._ask.ends):
            said = self._pass.begin(self._id(token))
            assert said is not None
            scores.append(said)
            token = int(drafted(said, self._row(drafts), self._draft.rule))
            drafts.append(token)
        self._pass.begin(self._id(token), say=False)  # whether it is right, the whole pass says
        return drafts, torch.cat(scores) if scores else torch.empty(0, self._model.cfg.vocab_size)

    def _take(self, tokens: Sequence[int], kept: int, logits: Tensor) -> list[Token]:
        wanted = [self._ask.params.logprobs] * len(tokens)
        chosen = torch.tensor(tokens, device=logits.device)
        told = token_logprobs(logits[: len(tokens)], chosen, wanted)
        out: list[Token] = []
        for i, (token, report) in enumerate(zip(tokens, told, strict=True)):
            self._output.append(token)
            self.tally.written += 1
            self.tally.kept += i < kept
            finish: Finish | None = None
            if token in self._ask.ends:
                finish = "stop"
            elif len(self._output) >= self._limit:
                finish = "length"
            out.append(Token(token, self._n_loops, report, finish))
            if finish is not None:
                self._ended = True
                break
        return out

    def _row(self, drafts: Sequence[int]) -> Row:
        ask = self._ask
        output = [*self._output, *drafts]
        return Row(ask.params, ask.seed, ask.index, ask.prompt, output, ask.ends)

    def _id(self, token: int) -> Tensor:
        return torch.tensor([token], device=self._device)

    @property
    def _device(self) -> torch.device:
        assert isinstance(self._model, nn.Module)
        return self._model.embed.weight.device


def drafted(logits: Tensor, row: Row, rule: Rule) -> Tensor:
    """The token (1,) that a draft chooses from its logits (1, vocab)."""
    if rule == "coupled":
        return choose(logits, [row])
    noise = exponentials([row.key], logits.shape[-1], logits.device, Purpose.DRAFT)
    return (probabilities(logits, [row]) / noise).argmax(-1)


def settled(
    logits: Tensor, rows: Sequence[Row], drafts: Sequence[int], scores: Tensor, rule: Rule
) -> tuple[int, int]:
    """How many drafted tokens are kept, and the token that follows them.

    Args:
        logits: (n + 1, vocab) of the whole model, at each drafted token and behind the last.
        rows: n + 1, what is asked there.
        drafts: The n tokens.
        scores: (n, vocab), the draft's own logits.
        rule: See the module.
    """
    if rule == "coupled":
        said = choose(logits, rows).tolist()
        wrong = (i for i, token in enumerate(drafts) if said[i] != token)
        kept = next(wrong, len(drafts))
        return kept, int(said[kept])
    if not drafts:
        return 0, int(choose(logits, rows))
    p = probabilities(logits, rows)
    q = probabilities(scores, rows[:-1])
    chosen = torch.tensor(drafts, device=logits.device)
    accepted, instead = judged(p[:-1], q, chosen, rows[:-1])
    refused = (~accepted).nonzero().flatten().tolist()
    if refused:
        return refused[0], int(instead[refused[0]])
    return len(drafts), int(choose(logits[-1:], rows[-1:]))


def judged(p: Tensor, q: Tensor, chosen: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
    """Which drafted tokens (n,) are accepted, and what each is replaced by if it is not.

    If a token is drawn from q, what remains is distributed as p.

    Args:
        p: (n, vocab), probabilities of the whole model.
        q: (n, vocab), those of the draft.
        chosen: (n,) int64, drawn from q.
        rows: n, whose keys name the draws.
    """
    keys, vocab = [row.key for row in rows], p.shape[-1]
    u = uniforms(keys, 1, p.device, Purpose.ACCEPT).squeeze(-1)
    at = chosen.unsqueeze(-1)
    accepted = u * q.gather(-1, at).squeeze(-1) < p.gather(-1, at).squeeze(-1)
    rest = (p - q).clamp(min=0.0)
    rest = torch.where(rest.sum(-1, keepdim=True) > 0.0, rest, p)  # p = q but for rounding
    noise = exponentials(keys, vocab, p.device, Purpose.RESIDUAL)
    return accepted, (rest / noise).argmax(-1)
