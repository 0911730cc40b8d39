"""A token per row of logits, each row by its own request, whatever stands beside it.

The order: repetition, frequency and presence penalty; bias; what is forbidden; then, of rows that
are not greedy, temperature, top-k, top-p, min-p, and the race of clocks that draws (`ops/sample`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from open_mythos.errors import InputError
from open_mythos.generate.noise import Key, Purpose, exponentials
from open_mythos.generate.params import SamplingParams
from open_mythos.nn.upload import upload
from open_mythos.ops.sample import LEAST_TEMPERATURE, largest, sample


WORD_BITS = 32  # tokens in one int32 of a packed mask


@dataclass(frozen=True, eq=False)
class Row:
    """What one continuation asks at its next token: plain values of the host.

    Attributes:
        params: Of the request.
        seed: Of its draws: `params.seed`, or one made for the request (`fresh_seed`).
        index: Which of the request's continuations.
        prompt: The prompt's token ids; read by the repetition penalty alone.
        output: Ids of the tokens that follow it so far.
        ends: Tokens that end the text, forbidden before `params.min_tokens`.
        allowed: What a constraint allows: int32 words on the host, one bit per token from the
            lowest; tokens beyond are forbidden. None allows all.
    """

    params: SamplingParams
    seed: int
    index: int = 0
    prompt: Sequence[int] = ()
    output: Sequence[int] = ()
    ends: tuple[int, ...] = ()
    allowed: Tensor | None = None

    @property
    def key(self) -> Key:
        """The name of the draws at this token."""
        return Key(self.seed, self.index, len(self.output))

    @property
    def held(self) -> bool:
        """Whether it is too early for the text to end."""
        return bool(self.ends) and len(self.output) < self.params.min_tokens

    @property
    def shapes(self) -> bool:
        """Whether anything but temperature and filters changes the logits."""
        p = self.params
        return p.penalised or bool(p.logit_bias) or self.held or self.allowed is not None


def choose(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """The next token of each row, (B,) int64; a row's token depends on nothing but itself.

    Rows that all ask for the same plain draw take the kernels of `ops.sample`, where a tie in
    rounding may fall otherwise than beside rows that ask for more.

    Args:
        logits: (B, V).
        rows: B.

    Raises:
        InputError: If there are not as many rows as logits.
    """
    _check(logits, rows)
    same = rows[0].params.sampling
    alike = all(row.params.sampling == same for row in rows)
    if alike and not any(row.shapes for row in rows):
        if same.temperature == 0.0:
            return largest(logits)
        noise = _noise(logits, rows)
        return sample(logits, noise, same.temperature, same.top_k, same.top_p, same.min_p)
    asked = shaped(logits, rows)
    greedy = [row.params.temperature == 0.0 for row in rows]
    best = asked.argmax(-1)
    if all(greedy):
        return best
    drawn = (filtered(asked, rows).softmax(-1) / _noise(logits, rows)).argmax(-1)
    return torch.where(upload(greedy, logits.device), best, drawn) if any(greedy) else drawn


def probabilities(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """(B, V) float32, with which `choose` draws; all on the likeliest token where it is greedy."""
    _check(logits, rows)
    asked = shaped(logits, rows)
    drawn = filtered(asked, rows).softmax(-1)
    greedy = [row.params.temperature == 0.0 for row in rows]
    if not any(greedy):
        return drawn
    best = torch.zeros_like(drawn).scatter_(-1, asked.argmax(-1, keepdim=True), 1.0)
    return torch.where(upload(greedy, logits.device).unsqueeze(-1), best, drawn)


def shaped(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Logits (B, V), float32 or wider, after penalties, bias and what is forbidden.

    Where all that a constraint allows is an end that comes too early, the end is allowed.
    """
    x = logits if logits.dtype == torch.float64 else logits.float()
    if not any(row.shapes for row in rows):
        return x
    x = _biased(_penalised(x, rows), rows)
    x = _constrained(x, rows)
    cells = [(i, t) for i, row in enumerate(rows) if row.held for t in row.ends]
    if not cells:
        return x
    at, tokens = upload(cells, x.device, torch.int64).unbind(-1)
    held = x.clone().index_put_((at, tokens), x.new_tensor(-math.inf))
    return torch.where((held > -math.inf).any(-1, keepdim=True), held, x)


def filtered(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Logits (B, V) float32 by temperature, -inf where top-k, top-p or min-p drop a token."""
    asks, device = [row.params for row in rows], logits.device
    wide = logits.float()
    heat = upload([max(a.temperature, LEAST_TEMPERATURE) for a in asks], device, wide.dtype)
    wide = (wide - wide.amax(-1, keepdim=True)) / heat.unsqueeze(-1)
    vocab = wide.shape[-1]
    ks = [a.top_k if 0 < a.top_k < vocab else vocab for a in asks]
    cut = [k for k in ks if k < vocab]
    if cut:
        wide = _keep_top_k(wide, ks, max(cut))
    nucleus = [i for i, a in enumerate(asks) if a.top_p < 1.0]
    if nucleus:
        at = upload(nucleus, device)
        p = upload([asks[i].top_p for i in nucleus], device, wide.dtype).unsqueeze(-1)
        wide = wide.index_copy(0, at, _keep_top_p(wide[at], p))
    if any(a.min_p > 0.0 for a in asks):
        spread = [math.log(a.min_p) if a.min_p > 0.0 else -math.inf for a in asks]
        floor = wide.amax(-1, keepdim=True) + upload(spread, device, wide.dtype).unsqueeze(-1)
        wide = wide.masked_fill(wide < floor, -math.inf)
    return wide


def _check(logits: Tensor, rows: Sequence[Row]) -> None:
    if logits.dim() != 2 or len(rows) != logits.shape[0] or not rows:
        raise InputError(
            f"{len(rows)} rows ask for tokens of logits {tuple(logits.shape)}; "
            "give (B, V) logits and B rows"
        )


def _noise(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    keys = [row.key for row in rows]
    return exponentials(keys, logits.shape[-1], logits.device, Purpose.TOKEN)


def _keep_top_k(x: Tensor, ks: Sequence[int], most: int) -> Tensor:
    """The k largest of each row, ties with the k-th too; k beyond `most` keeps all."""
    best = x.topk(most).values
    k = upload([min(k, most) - 1 for k in ks], x.device, torch.int64).unsqueeze(-1)
    whole = upload([k > most for k in ks], x.device).unsqueeze(-1)
    return x.masked_fill((x < best.gather(-1, k)) & ~whole, -math.inf)


def _keep_top_p(x: Tensor, p: Tensor) -> Tensor:
    """The fewest tokens of each row whose joint probability reaches p (B, 1)."""
    ordered, index = x.sort(dim=-1, descending=True)
    share = ordered.softmax(-1)
    dropped = share.cumsum(-1) - share >= p
    return torch.full_like(x, -math.inf).scatter(-1, index, ordered.masked_fill(dropped, -math.inf))


def _penalised(x: Tensor, rows: Sequence[Row]) -> Tensor:
    which = [i for i, row in enumerate(rows) if row.params.penalised]
    if not which:
        return x
    asks, vocab = [rows[i].params for i in which], x.shape[-1]
    at = upload(which, x.device)
    counts = _counts([rows[i].output for i in which], vocab, x)
    seen = (counts > 0) | (_counts([rows[i].prompt for i in which], vocab, x) > 0)
    factor, each, once = (
        upload([getattr(a, name) for a in asks], x.device, x.dtype).unsqueeze(-1)
        for name in ("repetition_penalty", "frequency_penalty", "presence_penalty")
    )
    y = x[at]
    y = torch.where(seen, torch.where(y > 0, y / factor, y * factor), y)
    y = y - each * counts - once * (counts > 0)
    return x.index_copy(0, at, y)


def _counts(texts: Sequence[Sequence[int]], vocab: int, like: Tensor) -> Tensor:
    """How often each token stands in each text, (rows, vocab) in the dtype of `like`."""
    width = max(1, *(len(text) for text in texts)) if texts else 1
    padded = [[*text, *[vocab] * (width - len(text))] for text in texts]
    ids = upload(padded, like.device, torch.int64)
    counts = torch.zeros(len(texts), vocab + 1, dtype=like.dtype, device=like.device)
    return counts.scatter_add_(1, ids, torch.ones_like(ids, dtype=like.dtype))[:, :vocab]


def _biased(x: Tensor, rows: Sequence[Row]) -> Tensor:
    cells = [(i, t, b) for i, row in enumerate(rows) for t, b in row.params.logit_bias.items()]
    if not cells:
        return x
    at = upload([(i, t) for i, t, _ in cells], x.device, torch.int64)
    bias = upload([b for _, _, b in cells], x.device, x.dtype)
    return x.clone().index_put_(tuple(at.unbind(-1)), bias, accumulate=True)


def _constrained(x: Tensor, rows: Sequence[Row]) -> Tensor:
    which = [i for i, row in enumerate(rows) if row.allowed is not None]
    if not which:
        return x
    at = upload(which, x.device)
    packed = [mask for row in rows if (mask := row.allowed) is not None]
    allowed = unpack(torch.stack(packed).to(x.device, non_blocking=True), x.shape[-1])
    return x.index_copy(0, at, x[at].masked_fill(~allowed, -math.inf))


def unpack(words: Tensor, count: int) -> Tensor:
    """Booleans (rows, count) from packed int32 words (rows, W), False beyond their last bit."""
    bits = torch.arange(WORD_BITS, device=words.device, dtype=torch.int32)
    found = ((words.unsqueeze(-1) >> bits) & 1).flatten(1)[:, :count].bool()
    return torch.nn.functional.pad(found, (0, count - found.shape[1]))
