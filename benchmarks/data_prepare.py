"""How fast and in how much memory `open-mythos data prepare` works: 2 GB of synthetic text.

    taskset -c 0 python benchmarks/data_prepare.py --tokenizer o200k_harmony

The text is made of the bundled plays' lines in random order: half of it JSON lines of log-normal
length, a quarter one single document without a break, a quarter parquet. Beside wall time stands
CPU time, which a busy machine does not stretch as much, and the speed of the tokenizer alone on the
same text, in CPU time too, measured before and after. Runs are added to the result file.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from open_mythos.data.corpus import plays_text


MB = 1_000_000
RESULT = Path(__file__).parent / "results" / "data-prepare.json"
# Encodes the first megabytes of a text again and again; prints bytes and CPU seconds.
ALONE = """
import sys, time
from open_mythos.data.encoding import encode_documents
from open_mythos.data.tokenizer import load_tokenizer
tokenizer, text = load_tokenizer(sys.argv[1]), open(sys.argv[2], encoding="utf-8").read(1 << 20)
encode_documents(tokenizer, [text])
began = time.process_time()
rounds = 0
while rounds < 4 or time.process_time() - began < 4:
    encode_documents(tokenizer, [text])
    rounds += 1
print(rounds * len(text.encode()), time.process_time() - began)
"""


def lines(seed: int) -> Iterator[str]:
    """Lines of the plays, for ever."""
    known = [line + "\n" for line in plays_text().split("\n")]
    draw = random.Random(seed)
    while True:
        yield from draw.choices(known, k=10_000)


def documents(size: int, seed: int) -> Iterator[str]:
    """Documents of log-normal length, median 2.5 kB, the longest tens of times that."""
    draw, supply, made = random.Random(seed), lines(seed), 0
    while made < size:
        wanted, text = draw.lognormvariate(7.8, 1.2), ""
        while len(text) < wanted:
            text += next(supply)
        made += len(text)
        yield text


def write_text(folder: Path, size: int) -> None:
    """All three kinds of files."""
    with (folder / "documents.jsonl").open("w", encoding="utf-8") as file:
        for number, text in enumerate(documents(size // 2, seed=1)):
            file.write(json.dumps({"id": number, "text": text}) + "\n")
    with (folder / "one-document.txt").open("w", encoding="utf-8") as file:
        supply = lines(2)
        while file.tell() < size // 4:
            file.write("".join(next(supply) for _ in range(1000)))
    write_parquet(folder / "rows.parquet", size // 4)


def write_parquet(path: Path, size: int) -> None:
    """One row group for every 64 MB, as large ones are usual."""
    import pyarrow as pa  # noqa: PLC0415 -- for the process that writes, not the one that measures
    from pyarrow import parquet  # noqa: PLC0415 -- as above

    schema = pa.schema([("text", pa.string())])
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:
        rows: list[str] = []
        held = 0
        for text in documents(size, seed=3):
            rows.append(text)
            held += len(text)
            if held > 64 * MB:
                writer.write_table(pa.table({"text": rows}, schema), row_group_size=1 << 30)
                rows, held = [], 0
        if rows:
            writer.write_table(pa.table({"text": rows}, schema))


def alone(tokenizer: str, folder: Path) -> float:
    """MB per CPU second of the tokenizer by itself."""
    words = [sys.executable, "-c", ALONE, tokenizer, str(folder / "one-document.txt")]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    text_bytes, seconds = map(float, done.stdout.split())
    return text_bytes / MB / seconds


def measured(options: argparse.Namespace, folder: Path, out: Path) -> dict[str, Any]:
    """Run the command, and ask the system what it took."""
    words = ["data", "prepare", str(folder), "--out", str(out), "--tokenizer", options.tokenizer]
    words += ["--workers", str(options.workers)]
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "open_mythos", *words])
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"prepare failed with {process.returncode}")
    seconds, cpu = time.monotonic() - began, used.ru_utime + used.ru_stime
    manifest = json.loads((out / "manifest.json").read_text())
    text = sum(split["text_bytes"] for split in manifest["splits"].values()) / MB
    return {
        "text_mb": round(text, 1),
        "tokens": sum(split["tokens"] for split in manifest["splits"].values()),
        "documents": sum(split["documents"] for split in manifest["splits"].values()),
        "seconds": round(seconds, 1),
        "cpu_seconds": round(cpu, 1),
        "mb_per_second": round(text / seconds, 2),
        "mb_per_cpu_second": round(text / cpu, 2),
        "peak_rss_mb": round(used.ru_maxrss * 1024 / MB, 1),
    }


def main() -> None:
    """Make the text, measure, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=2000)
    parser.add_argument("--tokenizer", default="o200k_harmony")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        source, out = Path(name) / "text", Path(name) / "out"
        source.mkdir()
        # In a process of its own: this one's peak would be inherited by the one that is measured.
        child = os.fork()
        if not child:
            write_text(source, options.megabytes * MB)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            raise SystemExit("the text could not be made")
        before = alone(options.tokenizer, source)
        own_peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / MB
        found = measured(options, source, out)
        after = alone(options.tokenizer, source)
    packages = ("tiktoken", "quicktok", "tokenizers", "pyarrow")
    result = {
        "command": f"python benchmarks/data_prepare.py --megabytes {options.megabytes} "
        f"--tokenizer {options.tokenizer} --workers {options.workers}",
        "cores": len(os.sched_getaffinity(0)),
        "load_average": round(os.getloadavg()[1], 1),
        **found,
        "tokenizer_alone_mb_per_cpu_second": [round(before, 2), round(after, 2)],
        "measuring_process_peak_mb": round(own_peak, 1),
        "python": sys.version.split()[0],
        "versions": {name: installed(name) for name in packages if find_spec(name)},
    }
    runs = json.loads(options.out.read_text())["runs"] if options.out.exists() else []
    options.out.write_text(json.dumps({"runs": [*runs, result]}, indent=2) + "\n")
    print(json.dumps(result, indent=2))


def installed(module: str) -> str:
    """Version of the package that a module comes from."""
    return version({"quicktok": "quicktok-v1"}.get(module, module))


if __name__ == "__main__":
    main()
