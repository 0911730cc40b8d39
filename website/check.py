"""The built site: every link leads somewhere, and nothing is fetched from elsewhere.

    python -m website.check build/site

Exit code 1, with a line for each fault. External links are allowed where a reader clicks (`a`),
and not followed: whether they live is no matter of ours. Scripts may name addresses that they
never use (the theme's names the one of Mermaid, for pages that ask for it; none may).
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


RESOURCES = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src"}
FETCHED_LINKS = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "modulepreload"}
CSS_ADDRESS = re.compile(
    r"url\(\s*['\"]?((?:https?:)?//[^)'\"]+)|@import\s+['\"]((?:https?:)?//[^'\"]+)"
)


@dataclass
class Page(HTMLParser):
    """What one page refers to, and what can be referred to in it.

    Attributes:
        links: Targets of `a`.
        resources: Addresses that a browser fetches by itself.
        anchors: Ids of its elements.
        faults: What may stand on no page.
    """

    links: list[str] = field(default_factory=list)
    resources: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin as a parser."""
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one element."""
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.anchors.add(given["id"])
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in RESOURCES and RESOURCES[tag] in given:
            self.resources.append(given[RESOURCES[tag]])
        if tag == "link" and set(given.get("rel", "").split()) & FETCHED_LINKS:
            self.resources.append(given.get("href", ""))
        if set(given.get("class", "").split()) & {"mermaid", "arithmatex"}:
            self.faults.append(f"an element of class {given['class']!r}, which wants a script")


def read(file: Path) -> Page:
    """One page, parsed."""
    page = Page()
    page.feed(file.read_text(encoding="utf-8"))
    return page


def faults(site: Path) -> Iterator[str]:
    """One line for each fault of a built site."""
    site = site.resolve()
    pages = {file: read(file) for file in sorted(site.rglob("*.html"))}
    if not pages:
        yield f"{site} holds no page"
    for file, page in pages.items():
        name = file.relative_to(site)
        yield from (f"{name}: {fault}" for fault in page.faults)
        for address in page.resources:
            if _elsewhere(address):
                yield f"{name}: fetches {address}"
            elif (
                address
                and not address.startswith("data:")
                and not _target(site, file, address).exists()
            ):
                yield f"{name}: there is no {address}"
        for address in page.links:
            yield from (f"{name}: {fault}" for fault in _broken(site, file, address, pages))
    for file in sorted(site.rglob("*.css")):
        for match in CSS_ADDRESS.finditer(file.read_text(encoding="utf-8")):
            yield f"{file.relative_to(site)}: fetches {match[1] or match[2]}"


def _elsewhere(address: str) -> bool:
    """Whether an address is of another host."""
    return bool(urlsplit(address).netloc)


def _target(site: Path, file: Path, address: str) -> Path:
    """The file that an address of this site means."""
    path = unquote(urlsplit(address).path)
    if not path:
        return file
    # The error page's addresses begin at the root, since it is shown anywhere.
    found = site / path.lstrip("/") if path.startswith("/") else file.parent / path
    found = found.resolve()
    return found / "index.html" if found.is_dir() else found


def _broken(site: Path, file: Path, address: str, pages: dict[Path, Page]) -> Iterator[str]:
    """What is wrong with one link."""
    parts = urlsplit(address)
    if parts.netloc or parts.scheme:
        return
    target = _target(site, file, address)
    if not target.exists():
        yield f"there is no {address}"
        return
    known = pages.get(target)
    if parts.fragment and known is not None and unquote(parts.fragment) not in known.anchors:
        yield f"{address} leads to no such place"


def main(site: Path) -> int:
    """Print the faults; 1 if there are any."""
    found = list(faults(site))
    print("\n".join(found) or f"{site}: all links lead somewhere, and nothing is fetched elsewhere")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
