"""The page in a browser: Chromium without a window types, streams, compares, and listens to keys.

The model writes nothing but what would be markup, were it ever taken for it.
"""

import re
import shutil
import time
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any
from unittest.mock import Mock

import pytest

from open_mythos.data.byte_tokenizer import ByteTokenizer


httpx = pytest.importorskip("httpx")
playwright = pytest.importorskip(
    "playwright.sync_api", reason="the extra [browser] is not installed"
)
from open_mythos.serve.refusals import Refusal  # noqa: E402 -- an extra


expect = playwright.expect
expect.set_options(timeout=20_000)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
ALPHABET = ["<", "b", ">", "&", " <", "/b>", " ", "\n", "img", " on", "=", "\u00e9", ";"]
PROMPT = "<img src=x onerror=alert(1)>&amp; once"
KEY = "ann's-secret-key-1234"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"none of {', '.join(BROWSERS)} is on PATH; Debian's package is chromium")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


class Scribe(ByteTokenizer):
    """Reads bytes; whatever token the model takes, it is one of a few letters."""

    eos_id = None  # type: ignore[assignment]

    def decode(self, ids: Iterable[int]) -> str:
        return "".join(ALPHABET[i % len(ALPHABET)] for i in ids)


@pytest.fixture
def scribe(build_service: Any) -> Any:
    """`scribe(...)`: as `build_service`, of a model whose text is made of `ALPHABET`."""
    return partial(build_service, tokenizer=Scribe())


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    """`visit(url, **context)`: an open page; whatever it complains of fails the test."""
    contexts: list[Any] = []
    faults: list[str] = []

    def go(url: str, *, ready: bool = True, **how: Any) -> Any:
        context = browser.new_context(**how)
        contexts.append(context)
        context.set_default_timeout(20_000)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: faults.append(f"a dialog: {dialog.message}"))
        page.on(
            "request",
            lambda request: request.url.startswith(url) or faults.append(f"asked {request.url}"),
        )
        page.goto(url)
        if ready:
            expect(page.locator("#status")).to_contain_text("Ready")
        return page

    yield go
    for context in contexts:
        context.close()
    assert not faults


def settle(page: Any, tokens: int = 20, seed: int = 5) -> None:
    """Fix what is left to luck, and how much is written."""
    page.click("#more summary")
    page.fill("#tokens", str(tokens))
    page.fill("#seed", str(seed))


def written(page: Any, side: str = "a") -> list[tuple[str, int]]:
    """Text and loops of each token that is shown."""
    found: list[tuple[str, int]] = page.locator(f"#pane-{side} .token").evaluate_all(
        "all => all.map(one => [one.textContent, Number(one.lastChild.dataset.loops)])"
    )
    return [(text, loops) for text, loops in found]


def asked(url: str, loops: int, tokens: int = 20, seed: int = 5, **more: Any) -> Any:
    """The same of the server itself."""
    body = {"model": "tiny", "prompt": PROMPT, "num_loops": loops, "max_tokens": tokens}
    body |= {"seed": seed, "temperature": 0.7, "token_details": True, **more}
    return httpx.post(f"{url}/v1/completions", json=body).json()["choices"][0]


def test_a_prompt_is_continued_token_by_token_each_with_its_loops(
    scribe: Any, listening: Any, visit: Any, hold: Any
) -> None:
    service = scribe()
    release = hold(service.front.engine, 10)  # of 16
    with listening(service) as url:
        page = visit(url)
        settle(page, tokens=16)
        page.fill("#prompt", PROMPT)
        page.select_option("#exit", "")  # it halts by itself
        page.focus("#loops-a")
        page.keyboard.press("ArrowLeft")
        expect(page.locator(".dial output").first).to_have_text("3 loops")
        page.focus("#prompt")
        page.keyboard.press("Control+Enter")
        page.locator("#a-3").wait_for(state="attached")
        assert page.locator("#pane-a .text").get_attribute("aria-busy") == "true"
        release()
        expect(page.locator("#pane-a .lens tbody tr")).to_have_count(3)

        own = asked(url, 3, 16)
        depths = [one["left_after"] for one in own["token_details"]]
        assert [loops for _, loops in written(page)] == depths
        assert "".join(text for text, _ in written(page)) == own["text"]
        assert len(set(depths)) > 1
        assert page.locator(".given").first.text_content() == PROMPT
        tags = page.locator("#pane-a .tokens *").evaluate_all(
            "all => [...new Set(all.map(one => one.tagName))]"
        )
        assert tags == ["SPAN"]
        colours = page.locator("#pane-a .token .word").evaluate_all(
            "all => all.map(one => getComputedStyle(one).backgroundImage)"
        )
        assert len({*zip(depths, colours, strict=True)}) == len(set(depths)) == len({*colours})
        for name in ("first", "speed", "loops", "cache"):
            expect(page.locator(f"#pane-a [data-number={name}]")).to_contain_text(re.compile(r"\d"))
        expect(page.locator("#pane-a .loops tbody tr")).to_have_count(3)
        assert page.locator("#pane-a .loops .strip").count() == 3  # it has experts
        expect(page.locator("#pane-a .grid tbody tr")).to_have_count(3)


@pytest.mark.slow
def test_the_lens_shows_what_the_server_says_of_the_chosen_token(
    scribe: Any, listening: Any, visit: Any
) -> None:
    with listening(scribe()) as url:
        page = visit(url)
        settle(page)
        page.fill("#prompt", PROMPT)
        page.select_option("#exit", "")
        page.dblclick("#write")  # who does not wait begins anew
        page.locator("#pane-a .lens table").wait_for()
        expect(page.locator("#status")).to_contain_text("20 tokens")
        own = asked(url, 4)
        ids = [one["id"] for one in own["token_details"]]
        assert "".join(text for text, _ in written(page)) == own["text"]
        body = {"model": "tiny", "prompt": PROMPT, "continuation": ids, "num_loops": 4}
        look = httpx.post(f"{url}/v1/inspect", json=body).json()
        page.click("#a-6")
        position = look["positions"][look["prompt_tokens"] - 1 + 6]
        hits = page.locator("#pane-a .lens tbody tr").evaluate_all(
            "rows => rows.map(row => row.classList.contains('hit'))"
        )
        assert hits == [top[0][0] == ids[6] for top in position["top"]]
        sure = page.locator("#pane-a .lens td.number").all_text_contents()
        shares = [f"{round(100 * top[0][1])}" for top in position["top"]]
        assert [text.removesuffix("\u202f%") for text in sure] == [
            "<1" if share == "0" and top[0][1] else share
            for share, top in zip(shares, position["top"], strict=True)
        ]


@pytest.mark.slow
def test_two_depths_write_side_by_side(scribe: Any, listening: Any, visit: Any) -> None:
    with listening(scribe(changes={"readout": "last"})) as url:
        page = visit(url, viewport={"width": 1280, "height": 900})
        settle(page)
        page.fill("#prompt", PROMPT)
        page.select_option("#exit", "")
        assert not page.locator("#loops-b").is_visible()
        page.check("#compare")
        page.focus("#loops-b")
        page.keyboard.press("Home")
        page.click("#write")
        for side in "ab":
            page.locator(f"#pane-{side} .lens table").wait_for()
        left, right = asked(url, 4), asked(url, 1)
        assert "".join(text for text, _ in written(page, "a")) == left["text"]
        assert "".join(text for text, _ in written(page, "b")) == right["text"]
        assert {loops for _, loops in written(page, "b")} == {1}
        ids = [[one["id"] for one in said["token_details"]] for said in (left, right)]
        parted = next(i for i in range(20) if ids[0][i] != ids[1][i])
        expect(page.locator("#status")).to_contain_text(f"They part at token {parted + 1}.")
        for side in "ab":
            assert page.locator(f"#pane-{side} .parting").get_attribute("id") == f"{side}-{parted}"
        boxes = [page.locator(f"#pane-{side}").bounding_box() for side in "ab"]
        assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]
        page.click("#a-5")
        expect(page.locator("#b-5")).to_have_attribute("aria-selected", "true")
        page.uncheck("#compare")
        expect(page.locator("#pane-b")).to_be_hidden()


@pytest.mark.slow
def test_everything_is_reached_by_keys_and_has_a_name(
    scribe: Any, listening: Any, visit: Any
) -> None:
    with listening(scribe(changes={"readout": "last"})) as url:
        page = visit(url)
        page.locator("#exit").select_option("")
        page.evaluate("document.activeElement.blur()")
        order = []
        for _ in range(9):
            page.keyboard.press("Tab")
            order.append(page.evaluate(FOCUSED))
        assert order == [
            "skip", "theme", "prompt", "write", "compare", "numbered", "SUMMARY", "loops-a", "exit",
        ]  # fmt: skip
        page.focus("#prompt")
        page.keyboard.type("hello there")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.locator("#pane-a .lens table").wait_for()
        expect(page.locator("#status")).to_contain_text("64 tokens")
        page.locator("#pane-a .tokens").focus()
        page.keyboard.press("Home")
        first = page.locator("#pane-a [aria-selected=true]").get_attribute("id")
        page.keyboard.press("ArrowRight")
        now = page.locator("#pane-a [aria-selected=true]")
        assert now.get_attribute("id") != first
        active = page.locator("#pane-a .tokens").get_attribute("aria-activedescendant")
        assert active == now.get_attribute("id")
        assert re.search(r", 4 loops$", now.get_attribute("aria-label") or "")
        page.keyboard.press("ArrowDown")
        lower = page.locator("#pane-a [aria-selected=true]").bounding_box()
        assert lower["y"] >= now.bounding_box()["y"]
        page.keyboard.press("End")
        page.keyboard.press("ArrowRight")  # there is no further one
        assert page.locator("#pane-a [aria-selected=true]").count() == 1
        nameless = page.locator("button, input, select, textarea, [tabindex='0']").evaluate_all(
            """all => all.filter(one => one.checkVisibility() && !(one.labels?.length
              || one.getAttribute('aria-label') || one.textContent.trim()))
              .map(one => one.outerHTML)"""
        )
        assert nameless == []
        assert page.locator("[role=status]").count() == page.locator("[role=alert]").count() == 1


FOCUSED = "(({ id, className, tagName }) => id || className || tagName)(document.activeElement)"
# Every text against what lies under it, in a pixel, since colours are told in many spaces.
CONTRAST = """() => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const over = (colours) => {
    canvas.clearRect(0, 0, 1, 1);
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const light = (rgb) => rgb.map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const low = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let count = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest('.visually-hidden, :disabled, noscript')) continue;
    const under = [];
    for (let at = element; at; at = at.parentElement) {
      under.unshift(getComputedStyle(at).backgroundColor);
    }
    const back = over(['white', ...under]);
    const front = over(['white', ...under, getComputedStyle(element).color]);
    const [a, b] = [light(back), light(front)].sort((x, y) => y - x);
    count += 1;
    if ((a + 0.05) / (b + 0.05) >= 4.5) continue;
    low.push(`${element.className} ${element.textContent.slice(0, 30)} ${back} ${front}`);
  }
  return { count, low };
}"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 360])
def test_both_themes_can_be_read_at_any_width(
    scribe: Any, listening: Any, visit: Any, width: int
) -> None:
    with listening(scribe()) as url:
        page = visit(url, color_scheme="dark", viewport={"width": width, "height": 800})
        settle(page, tokens=60)
        page.fill("#prompt", PROMPT)
        page.click("#write")
        page.locator("#pane-a .grid table").wait_for()
        page.check("#numbered")
        papers = []
        for words in ("system", "light", "dark"):
            expect(page.locator("#theme")).to_have_text(f"Theme: {words}")
            papers.append(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            found = page.evaluate(CONTRAST)
            assert found["count"] > 200
            assert found["low"] == []
            page.click("#theme")
        assert papers[0] == papers[2] != papers[1]
        inside = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
        assert page.evaluate(inside)
        page.click("#theme")
        page.reload()
        expect(page.locator("#theme")).to_have_text("Theme: light")


@pytest.mark.slow
def test_a_key_is_asked_for_and_not_kept_unless_that_was_wanted(
    scribe: Any, listening: Any, visit: Any
) -> None:
    with listening(scribe(keys={"ann": KEY})) as url:
        page = visit(url, ready=False)
        expect(page.locator("#key-dialog")).to_be_visible()
        expect(page.locator("#key-words")).to_contain_text("asks for an API key")
        expect(page.locator("#key")).to_be_focused()
        page.keyboard.type("not the key at all")
        page.keyboard.press("Enter")
        expect(page.locator("#key-dialog")).to_be_visible()
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        expect(page.locator("#status")).to_contain_text("Ready")
        assert KEY not in str(page.evaluate("({...localStorage, ...sessionStorage})"))
        page.reload()
        expect(page.locator("#key-dialog")).to_be_visible()
        page.fill("#key", KEY)
        page.check("#key-keep")
        page.keyboard.press("Enter")
        expect(page.locator("#status")).to_contain_text("Ready")
        page.reload()
        expect(page.locator("#status")).to_contain_text("Ready")
        page.click("#key-open")
        page.click("#key-forget")
        expect(page.locator("#key-dialog")).to_be_visible()
        assert KEY not in str(page.evaluate("({...localStorage})"))


@pytest.mark.slow
def test_errors_are_said_in_words_and_stopping_stops(
    scribe: Any, listening: Any, visit: Any, hold: Any
) -> None:
    service = scribe()
    release = hold(service.front.engine, 10)  # of 64
    with listening(service) as url:
        page = visit(url)
        settle(page, tokens=64)
        page.fill("#prompt", "x" * 80)
        page.click("#write")
        expect(page.locator("#error")).to_contain_text("context is 128 tokens")
        page.fill("#prompt", "x")
        page.click("#write")
        page.locator("#a-2").wait_for(state="attached")
        expect(page.locator("#error")).to_be_hidden()
        page.click("#stop")
        expect(page.locator("#status")).to_have_text("Stopped.")
        expect(page.locator("#stop")).to_be_disabled()
        release()
        end = time.monotonic() + 20
        while service.front.engine.stats.running and time.monotonic() < end:
            time.sleep(0.02)
        assert not service.front.engine.stats.running
        refusal = Refusal(429, "3 requests of this key are under way", wait=6.2)
        service.limits.admitted = Mock(side_effect=refusal)
        page.click("#write")
        expect(page.locator("#error")).to_have_text(
            "You have asked for too much at once. 3 requests of this key are under way. "
            "Try again in 7 seconds."
        )
        expect(page.locator("#stop")).to_be_disabled()
    page.click("#write")
    expect(page.locator("#error")).to_contain_text("cannot be reached")


@pytest.mark.slow
def test_the_browser_lets_no_text_become_markup(scribe: Any, listening: Any, visit: Any) -> None:
    with listening(scribe()) as url:
        page = visit(url)
        tried = """(code) => { try { %s; return 'done'; } catch (error) { return error.name; } }"""
        assert page.evaluate(tried % "document.body.innerHTML = '<b>x</b>'") == "TypeError"
        for how in ("script.append(code)", "script.src = 'data:text/javascript,' + code"):
            page.evaluate(
                tried
                % f"""const script = document.createElement('script'); {how};
                   document.body.append(script)""",
                "document.title = 'run'",
            )
        page.wait_for_timeout(100)
        assert page.title() == "open_mythos: depth at work"
