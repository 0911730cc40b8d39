"""Templates are rendered as `transformers` renders them, in a sandbox, or refused in one line."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from open_mythos.data.byte_tokenizer import ByteTokenizer
from open_mythos.data.chat_template import ChatTemplate, chat_template, compiled, use_template
from open_mythos.data.corpus import plays_text
from open_mythos.data.special_tokens import ROLE_TEMPLATE, ROLES
from open_mythos.data.tiktoken_tokenizer import HARMONY_TEMPLATE
from open_mythos.data.tokenizer import BPETokenizer
from open_mythos.errors import InputError


ROLE_NAMES = {"eos_token": "<|endoftext|>"}
CHATS = st.lists(st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": st.text()}))
TEMPLATES = [
    ROLE_TEMPLATE,
    HARMONY_TEMPLATE,
    # Blocks on lines of their own, loop controls, filters and every name that templates count on.
    """{%- if tools is not none or documents is not none %}{{ raise_exception('tools') }}{% endif %}
{%- for message in messages %}
    {%- if loop.index > 3 %}{% break %}{% endif %}
    {% if message.role == 'user' -%}
        [{{ message['content'] | trim }}]
    {%- else %}
        {{ message | tojson }}{{ message.content | tojson(indent=2) }}
    {% endif %}
{%- endfor %}
{{- bos_token }}{% if add_generation_prompt %}>{% endif %}
""",
]


@given(CHATS, st.booleans())
def test_the_role_template_is_role_content_end(messages: list[Any], ask: bool) -> None:
    wanted = "".join(f"<|{m['role']}|>{m['content']}<|endoftext|>" for m in messages)
    found = ChatTemplate(ROLE_TEMPLATE, ROLE_NAMES).render(messages, ask)
    assert found == wanted + ("<|assistant|>" if ask else "")


@given(CHATS, st.booleans(), st.sampled_from(TEMPLATES))
def test_transformers_renders_the_same(messages: list[Any], ask: bool, source: str) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    names = {**ROLE_NAMES, "bos_token": "<s>"}
    rendered, _ = utils.render_jinja_template(
        [messages], chat_template=source, add_generation_prompt=ask, **names
    )
    assert ChatTemplate(source, names).render(messages, ask) == rendered[0]


def test_the_day_is_fixed_for_training_and_anyones_for_a_chat() -> None:
    source = "{{ strftime_now('%d %B %Y') }}"
    assert ChatTemplate(source).render([]) == "01 January 2026"
    day = datetime(2001, 2, 3, tzinfo=UTC)
    assert ChatTemplate(source, today=day).render([]) == "03 February 2001"


@pytest.mark.parametrize(
    ("source", "messages", "message"),
    [
        (ROLE_TEMPLATE, [{"role": "user\n", "content": "a"}], "unknown role user"),
        (ROLE_TEMPLATE, [{"role": "boss", "content": "a"}], "unknown role boss; known: system"),
        (HARMONY_TEMPLATE, [{"role": "boss", "content": "a"}], "unknown role boss; known: system"),
        (ROLE_TEMPLATE, [{"role": "user", "content": None}], "cannot render"),
        (ROLE_TEMPLATE, [{"role": "user", "content": 7}], "content of message 1 is '7'"),
        (ROLE_TEMPLATE, [{"content": "a"}], r"message 1 is .*\"role\": \"user\""),
        (ROLE_TEMPLATE, ["hello"], "message 1 is 'hello'"),
        ("{{ messages[5]['role'] }}", [], "cannot render"),
        ("{{ messages.clear() }}", [], "cannot render"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", [], "cannot render"),
        ("{% for m in messages %}", [], "line 1 of the chat template"),
        ("{% generation %}", [], "line 1 of the chat template"),
    ],
)
def test_what_cannot_be_rendered_is_one_clear_error(
    source: str, messages: list[Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ChatTemplate(source, ROLE_NAMES).render(messages)


def test_generation_tags_change_nothing() -> None:
    source = (
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}"
    )
    plain = source.replace("{% generation %}", "").replace("{% endgeneration %}", "")
    messages = [{"role": "user", "content": c} for c in "abc"]
    assert ChatTemplate(source).render(messages) == ChatTemplate(plain).render(messages) == "a;b;c;"


def test_a_tokenizer_without_a_template_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no chat template.*data\.chat_template.*'byte'"):
        chat_template(BPETokenizer.train([plays_text()[:1000]], 300))
    path = tmp_path / "mine.jinja"
    path.write_text("<{{ messages[0].content }}>{{ eos_token }}")
    tokenizer = ByteTokenizer()
    use_template(tokenizer, path)
    asked = chat_template(tokenizer).render([{"role": "user", "content": "a"}])
    assert asked == "<a><|endoftext|>"
    path.write_text("{% if %}")
    with pytest.raises(InputError, match="line 1 of the chat template"):
        use_template(tokenizer, path)
    with pytest.raises(InputError, match="cannot read a chat template"):
        use_template(tokenizer, tmp_path / "missing.jinja")


def test_a_template_is_compiled_once() -> None:
    assert compiled(ROLE_TEMPLATE) is compiled(ROLE_TEMPLATE)
