"""Page: what a browser is shown at /, from files inside of the package, under strict headers."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from importlib.resources import files

from starlette.responses import Response


PARTS = "/static/"  # where everything but index.html is served
KINDS = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
# Text of a model is text of a stranger. Scripts come from here alone, none stands in the markup,
# and no text becomes markup (trusted types): a browser enforces what the scripts also do.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "content-security-policy": POLICY,
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
    "vary": "accept",
}


@dataclass(frozen=True)
class Page:
    """The files of the page, by name: content and entity tag."""

    parts: Mapping[str, tuple[bytes, str]]

    @property
    def names(self) -> frozenset[str]:
        """Of the files."""
        return frozenset(self.parts)

    def answer(self, name: str, headers: Mapping[str, str]) -> Response:
        """A file, or that the browser has it already.

        Args:
            name: Of a file that there is.
            headers: Of the request.
        """
        content, tag = self.parts[name]
        told = {**HEADERS, "etag": tag}
        if headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=told)
        return Response(content, headers={**told, "content-type": KINDS[name.rpartition(".")[2]]})


def read_page() -> Page:
    """The page as it lies in the package."""
    parts = {}
    for entry in files("open_mythos.serve").joinpath("static").iterdir():
        if entry.name.rpartition(".")[2] in KINDS:
            content = entry.read_bytes()
            parts[entry.name] = (content, f'"{sha256(content).hexdigest()[:32]}"')
    return Page(parts)
