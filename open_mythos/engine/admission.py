"""Admission: requests as they are given, checked and made into what the engine works with."""

from weakref import WeakValueDictionary

from open_mythos.engine.blocks import root_name
from open_mythos.engine.flight import Track
from open_mythos.engine.request import Request
from open_mythos.engine.settings import EngineConfig
from open_mythos.engine.writer import Writer
from open_mythos.errors import InputError
from open_mythos.generate.constrain import build_guide
from open_mythos.generate.decode import Stop, check_room
from open_mythos.generate.detokenise import Spelling
from open_mythos.generate.noise import fresh_seed
from open_mythos.generate.params import SamplingParams
from open_mythos.generate.text import Writer as TextWriter
from open_mythos.model.leaving import leaving
from open_mythos.model.mythos import OpenMythos
from open_mythos.nn.loop.exiting import Leave
from open_mythos.nn.loop.exits.criterion import Criterion, Exit
from open_mythos.nn.loop.exits.predictions import Oracle
from open_mythos.nn.loop.exits.registry import CALIBRATED
from open_mythos.nn.loop.exits.states import Fixed
from open_mythos.nn.loop.recurrent import check_loops


class Admission:
    """What may be asked of a model, and what an engine of some size has room for."""

    def __init__(
        self, model: OpenMythos, tokenizer: Spelling | None, settings: EngineConfig
    ) -> None:
        """Of this model.

        Raises:
            InputError: If it cannot serve requests side by side.
        """
        if model.cfg.kv == "last":
            raise InputError(
                "the model's kv is 'last': what it says depends on how a prompt is cut, and an "
                "engine cuts prompts; use model.generate, or a model with kv 'per_loop' or 'first'"
            )
        if model.training:
            raise InputError("the model is in training mode; call model.eval() before serving it")
        if any(getattr(module, "lockstep", False) for module in model.modules()):
            raise InputError(
                "the model is spread over ranks that meet in every loop; an engine runs in one "
                "process: load the model there, and start one engine per process"
            )
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self.n_loops = settings.n_loops or model.cfg.max_loop_iters
        self._tracks = 0
        # Equal exits are one object while somebody uses them, so that their rows go together.
        self._leaves: WeakValueDictionary[tuple[object, ...], Leave] = WeakValueDictionary()

    def check(self, request: Request) -> None:
        """Refuse what cannot be answered; see `Engine.check`."""
        self._check_prompt(request)
        self._depth(request)
        asked = request.sampling
        if not isinstance(asked, SamplingParams):
            raise InputError(f"sampling is {asked!r}; it must be a SamplingParams")
        asked.check_vocab(self.model.cfg.vocab_size)
        if asked.stop and self.tokenizer is None:
            raise InputError("stop strings need a tokenizer; give one to the Engine, or use "
                             "stop_token_ids")  # fmt: skip
        build_guide(asked.constraint, self.tokenizer)  # raises where there can be none
        if asked.n > self.settings.queue:
            raise InputError(
                f"n is {asked.n}; engine.queue is {self.settings.queue}: ask for fewer at once"
            )
        count = request.prompt_logprobs
        if count is not None and (isinstance(count, bool) or not isinstance(count, int)):
            raise InputError(f"prompt_logprobs is {count!r}; it must be an int >= 0, or None")
        if count is not None and count < 0:
            raise InputError(f"prompt_logprobs is {count}; it must be >= 0, or None")
        self._most(request)

    def _check_prompt(self, request: Request) -> None:
        vocab = self.model.cfg.vocab_size
        if len(request.prompt) == 0:
            raise InputError("the prompt is empty; give at least one token")
        for token in request.prompt:
            if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab:
                raise InputError(f"the prompt holds {token!r}; tokens are ints in 0 .. {vocab - 1}")

    def _depth(self, request: Request) -> tuple[int, Leave | None]:
        """Loops at most, and how positions leave before."""
        wanted, stored = request.n_loops, self.model.calibrated
        if wanted is None and request.exit == CALIBRATED and stored is not None:
            wanted = stored.n_loops
        loops = check_loops(wanted, self.n_loops)
        if loops > self.n_loops:
            raise InputError(
                f"n_loops is {loops}; this engine was made for at most {self.n_loops}: ask for "
                "fewer, or raise engine.n_loops"
            )
        leave = leaving(request.exit, self.model, loops)
        if leave is None:
            return loops, None
        if isinstance(leave.exit, Oracle):
            raise InputError("exit 'oracle' knows the answers of one pass; an engine has none")
        if type(leave.exit) is Fixed:  # the same as so many loops
            return min(loops, int(leave.exit.threshold)), None
        return loops, leave

    def _most(self, request: Request) -> int:
        """Tokens to add at most."""
        cfg, size, asked = self.model.cfg, self.settings.block_size, request.sampling.max_tokens
        length, room = len(request.prompt), self.settings.blocks * self.settings.block_size
        limit = min(cfg.max_output_tokens, cfg.max_seq_len - length, room - length)
        most = max(limit, 1) if asked is None else asked
        check_room(cfg, length, Stop(most))
        if length + most > room:
            raise InputError(
                f"{length} prompt tokens and {most} new ones make {length + most}; the engine's "
                f"cache has {self.settings.blocks} blocks of {size}: ask for less, or raise "
                "engine.blocks"
            )
        return most

    def admit(self, request: Request, number: int) -> list[tuple[Writer, Track]]:
        """A writer and a track for each continuation of a checked request."""
        loops, leave = self._depth(request)
        if leave is not None:
            leave = self._leaves.setdefault(_exit_name(leave.exit), leave)
        asked, eos = request.sampling, getattr(self.tokenizer, "eos_id", None)
        seed = fresh_seed() if asked.seed is None else asked.seed
        named = leave is None or isinstance(leave.exit, Criterion)
        root = None
        if self.settings.share_prefixes and named:  # what else leaves where, nobody can know
            rule = None if leave is None else _exit_name(leave.exit)
            root = root_name(request.namespace, loops, rule)
        admitted = []
        for choice in range(asked.n):
            spelling = None
            if self.tokenizer is not None:
                spelling = TextWriter(self.tokenizer, asked, request.prompt)
            whole = request.prompt_logprobs is not None and choice == 0
            writer = Writer(
                request=number,
                choice=choice,
                asked=request,
                seed=seed,
                most=self._most(request),
                ends=asked.ends(eos),
                spelling=spelling,
                guide=build_guide(asked.constraint, self.tokenizer),
            )
            track = Track(self._tracks, list(request.prompt), loops, root, leave, whole)
            self._tracks += 1
            admitted.append((writer, track))
        return admitted


def _exit_name(rule: Exit) -> tuple[object, ...]:
    """What equal exits have in common and others do not, while both exist."""
    kind = type(rule)
    if isinstance(rule, Criterion):
        return kind.__module__, kind.__qualname__, rule.threshold
    return kind.__module__, kind.__qualname__, id(rule)
