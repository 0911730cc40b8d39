"""The page as files: what is served, under which headers, and that it asks nobody else."""

import re
import zipfile
from importlib.resources import files
from typing import Any

import pytest

from open_mythos.serve.page import HEADERS, KINDS, PARTS, read_page


ASKED = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
TEXTS = {name: content.decode() for name, (content, _) in read_page().parts.items()}


def test_browsers_get_the_page_and_others_the_facts(build_service: Any, talk: Any) -> None:
    async def script(client: Any) -> Any:
        page, facts = await client.get("/", headers=ASKED), await client.get("/")
        parts = [await client.get(f"{PARTS}{name}") for name in TEXTS if name != "index.html"]
        tag = {"if-none-match": parts[0].headers["etag"]}
        again = await client.get(parts[0].request.url.path, headers=tag)
        return page, facts, parts, again, await client.get(f"{PARTS}../app.py")

    page, facts, parts, again, none = talk(build_service(), script)
    assert page.headers["content-type"] == KINDS["html"]
    assert facts.json()["model"] == "tiny"
    assert (again.status_code, again.content) == (304, b"")
    assert none.status_code == 404
    for answer in (page, *parts):
        assert answer.status_code == 200
        assert HEADERS.items() <= dict(answer.headers).items()
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.text == TEXTS[answer.request.url.path.rpartition("/")[2] or "index.html"]


def test_the_policy_lets_in_what_is_served_here_and_nothing_else() -> None:
    policy = dict(part.split(" ", 1) for part in HEADERS["content-security-policy"].split("; "))
    assert policy.pop("default-src") == "'none'"
    for name in ("script-src", "style-src", "img-src", "connect-src"):
        assert policy.pop(name) == "'self'"
    assert policy.pop("require-trusted-types-for") == "'script'"
    assert set(policy.values()) == {"'none'"}


def test_without_a_key_the_page_is_shown_and_nothing_of_the_model(
    build_service: Any, talk: Any
) -> None:
    async def script(client: Any) -> Any:
        shown = [await client.get("/", headers=ASKED)]
        shown += [await client.get(f"{PARTS}{name}") for name in TEXTS if name != "index.html"]
        body = {"model": "tiny", "prompt": "a"}
        return shown, await client.post("/v1/inspect", json=body), await client.get("/v1/models")

    shown, inspect, models = talk(build_service(keys={"ann": "ann's-secret-key-1234"}), script)
    assert {one.status_code for one in shown} == {200}
    assert (inspect.status_code, models.status_code) == (401, 401)


def test_looks_are_limited_as_other_requests_are(build_service: Any, talk: Any, post: Any) -> None:
    async def script(client: Any) -> Any:
        return [(await post(client, "/v1/inspect", prompt="a")).status_code for _ in range(3)]

    assert talk(build_service(key_per_minute=2), script) == [200, 200, 429]


@pytest.mark.parametrize("name", sorted(TEXTS))
def test_no_file_asks_another_server_or_makes_markup_of_text(name: str) -> None:
    text = TEXTS[name].replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert not re.search(r"https?://|(?<!:)//[\w.]+\.\w+/", text)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b", text)
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=|\bstyle=", text)
    assert max(len(line) for line in text.splitlines()) <= 180
    assert len(text.splitlines()) <= 400


def test_what_the_markup_names_is_there() -> None:
    html = TEXTS["index.html"]
    named = set(re.findall(r'(?:src|href)="static/([\w.]+)"', html))
    for text in TEXTS.values():
        named |= set(re.findall(r'from "\./([\w.]+)"', text))
    assert named == set(TEXTS) - {"index.html"}
    ids = re.findall(r'\bid="([\w-]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'\$\("([\w-]+)"\)', TEXTS["app.js"])) <= set(ids)
    assert set(re.findall(r'\bfor="([\w-]+)"', html)) <= set(ids)
    assert set(re.findall(r"getElementById\(\"([\w-]+)\"\)", "".join(TEXTS.values()))) <= set(ids)


def test_a_page_in_an_archive_is_read_as_well(tmp_path: Any, monkeypatch: Any) -> None:
    archive = tmp_path / "package.zip"
    with zipfile.ZipFile(archive, "w") as whole:
        for name, text in TEXTS.items():
            whole.writestr(f"static/{name}", text)
    assert files("open_mythos.serve").joinpath("static", "app.js").is_file()
    monkeypatch.setattr("open_mythos.serve.page.files", lambda _: zipfile.Path(archive))
    assert {name: part[0].decode() for name, part in read_page().parts.items()} == TEXTS
