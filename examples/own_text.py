"""From text of your own to a model that continues it: tokenizer, tokens, training, writing.

    python examples/own_text.py                              # the bundled plays, a minute or so
    python examples/own_text.py --text notes.txt --out runs/notes

Everything goes into one folder: tok/ (a byte-level BPE learnt from the text), data/ (the text as
memory-mapped tokens), run/ (checkpoints and metrics.jsonl). Run it again after a stop, and it goes
on where it was; each step is also a command (`open-mythos tokenizer train`, `data prepare`,
`train`, `generate`).
"""

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from open_mythos import OpenMythos
from open_mythos.config.overrides import configure
from open_mythos.data.bpe_tokenizer import BPETokenizer
from open_mythos.data.corpus import plays_text, split_documents
from open_mythos.data.prepare import Request, prepare
from open_mythos.data.tokenizer import decode_known, load_tokenizer, padded_vocab, save_tokenizer
from open_mythos.train.console import ConsoleSink
from open_mythos.train.presets import recipe
from open_mythos.train.trainer import train


def main(argv: Sequence[str] | None = None) -> str:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--text", type=Path, nargs="+", help="UTF-8 files, one document each")
    parser.add_argument("--out", type=Path, default=Path("runs/example-own-text"))
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--prompt", default="KING HENRY:\n")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="e.g. model.dim=128")
    args = parser.parse_args(argv)

    texts = args.text or bundled(args.out / "text")
    tokenizer_folder = args.out / "tok"
    if not tokenizer_folder.is_dir():
        learnt = BPETokenizer.train((p.read_text(encoding="utf-8") for p in texts), args.vocab)
        save_tokenizer(learnt, tokenizer_folder)
    tokenizer = load_tokenizer(tokenizer_folder)

    data = prepare(
        Request(
            sources=tuple(str(path) for path in texts),
            out=args.out / "data",
            tokenizer=str(tokenizer_folder),
            validation_share=0.1,
        )
    )
    print(f"{data.tokens('train').size:,} tokens to train on, {data.tokens('validation').size:,} "
          f"held out; {tokenizer.vocab_size} different ones")  # fmt: skip

    base = recipe("cpu-tiny")
    plan = replace(
        base,
        steps=args.steps,
        eval_every=0,
        data=replace(base.data, corpus=str(args.out / "data")),
        model=replace(base.model, vocab_size=padded_vocab(tokenizer)),
    )
    plan = configure(plan, overrides=args.settings)
    result = train(plan, args.out / "run", resume="auto", sinks=[ConsoleSink()])
    model = result.model
    assert isinstance(model, OpenMythos)
    ids = torch.tensor([tokenizer.encode(args.prompt)])
    tokens = model.generate(ids, 60, n_loops=4, temperature=0.8, top_k=40)
    text = decode_known(tokenizer, tokens[0].tolist())  # the vocabulary is padded to 64s
    print(text)
    print(f"\nmore of it: open-mythos generate {args.out / 'run'} --prompt ... --loops 8")
    return text


def bundled(folder: Path) -> list[Path]:
    """The bundled plays as files, one scene each."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, scene in enumerate(split_documents(plays_text())):
        path = folder / f"scene-{number:03d}.txt"
        path.write_text(scene, encoding="utf-8")
        paths.append(path)
    return paths


if __name__ == "__main__":
    main()
