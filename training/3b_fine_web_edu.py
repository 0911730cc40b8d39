"""Train mythos_3b on FineWeb-Edu, as the public design's reference run does.

    python training/3b_fine_web_edu.py --data DIR --out runs/fineweb-3b
    torchrun --nproc-per-node 8 training/3b_fine_web_edu.py --data DIR parallel.shard=8

DIR is what `open-mythos data prepare` made of the data set; where it is missing, this says how. The
recipe is `fineweb-3b`, number by number: 2,048 positions, 256 sequences a step, AdamW at 3e-4, 30
billion tokens. Settings are laid over it as with `open-mythos train`. Run the same command again
after a stop, on as many processes as there are: it goes on where it was.
"""

import argparse
from pathlib import Path

from open_mythos.cli.train import run
from open_mythos.data.prepared import open_prepared
from open_mythos.data.tokenizer import padded_vocab
from open_mythos.train.text_recipes import REFERENCE_CORPUS


PREPARE = (
    "open-mythos data prepare {corpus} --tokenizer openai/gpt-oss-20b --workers 16 --out {data}"
)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE", help="e.g. parallel.shard=8")
    parser.add_argument("--data", type=Path, default=Path("data/fineweb-edu"))
    parser.add_argument("--out", type=Path, default=Path("runs/fineweb-3b"))
    args = parser.parse_args()
    if not args.data.is_dir():
        parser.error(
            f"{args.data} is no folder of tokens; make it first, on one machine with a network: "
            + PREPARE.format(corpus=REFERENCE_CORPUS, data=args.data)
        )
    # Every id of the tokenizer has a row, special ones included, whatever the preset says.
    vocabulary = padded_vocab(open_prepared(args.data).manifest.vocab_size)
    ours = [f"data.corpus={args.data}", f"model.vocab_size={vocabulary}", "engine.precision=auto"]
    return run(
        name="fineweb-3b",
        overrides=[*ours, *args.settings],
        out=args.out,
        start="auto",
        config=None,
        print_config=False,
    )


if __name__ == "__main__":
    raise SystemExit(main())
