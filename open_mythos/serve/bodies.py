"""Bodies of requests: OpenAI's fields and ours, strict about types, and nothing unknown.

A misspelt field that is ignored answers another question than was asked, so what is unknown is
refused, as OpenAI does. Fields that mean nothing here but change no answer are taken and ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


MOST = 2**31 - 1
STOPS = 16
BIASED = 4096
ALTERNATIVES = 20

TokenId = Annotated[int, Field(ge=0, le=MOST)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True, min_length=1)]
Texts = Annotated[list[str], Field(fail_fast=True, min_length=1)]
StopText = Annotated[str, Field(min_length=1, max_length=512)]
Effort = Literal["low", "medium", "high"]


class Strict(BaseModel):
    """No conversion from one type to another, no infinities, nothing unknown."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


class StreamOptions(Strict):
    """What a stream tells besides the text."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None  # ignored


class Schema(Strict):
    """A JSON schema with its name."""

    name: str = Field(max_length=64)
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None  # the text always follows it


class ResponseFormat(Strict):
    """The form of the text."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: Schema | None = None


class Sampled(Strict):
    """What both kinds of request may ask for."""

    model: str = Field(min_length=1, max_length=512)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=MOST)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    max_tokens: int | None = Field(None, ge=0, le=MOST)
    stop: StopText | Annotated[list[StopText], Field(max_length=STOPS)] | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    logit_bias: (
        dict[
            Annotated[str, Field(pattern=r"^[0-9]{1,10}$")],
            Annotated[float, Field(ge=-100, le=100)],
        ]
        | None
    ) = Field(None, max_length=BIASED)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    # Ours, beyond OpenAI's: depth, and samplers as users of vLLM know them.
    num_loops: int | None = Field(None, ge=1, le=MOST)
    exit: str | None = Field(None, min_length=1, max_length=64)
    reasoning_effort: Effort | None = None
    top_k: int | None = Field(None, ge=0, le=MOST)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    min_tokens: int | None = Field(None, ge=0, le=MOST)
    stop_token_ids: Annotated[list[TokenId], Field(fail_fast=True, max_length=STOPS)] | None = None
    ignore_eos: bool | None = None
    token_details: bool | None = None
    # Clients send these; they change no answer.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


class CompletionBody(Sampled):
    """POST /v1/completions: a text, or its tokens, or several of either, to be continued."""

    prompt: str | TokenIds | Texts | Annotated[list[TokenIds], Field(fail_fast=True, min_length=1)]
    echo: bool | None = None
    logprobs: int | None = Field(None, ge=0, le=ALTERNATIVES)
    best_of: int | None = Field(None, ge=1, le=MOST)  # refused unless it is n
    suffix: str | None = None  # refused unless empty


class TextPart(Strict):
    """A piece of a message."""

    type: Literal["text"]
    text: str


class Message(Strict):
    """One message of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | Annotated[list[TextPart], Field(fail_fast=True)]
    name: str | None = None  # ignored
    type: Literal["text"] | None = None  # lm-eval says so of every message
    refusal: None = None
    tool_calls: None = None
    tool_call_id: str | None = None  # ignored
    # What clients hand back of an answer, as it came.
    annotations: list[Any] | None = None
    audio: None = None
    function_call: None = None

    @property
    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


Messages = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=4096)]


class ChatBody(Sampled):
    """POST /v1/chat/completions: a conversation to be answered."""

    messages: Messages
    max_completion_tokens: int | None = Field(None, ge=1, le=MOST)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=ALTERNATIVES)
    # Clients send them empty; there are no tools, and any is refused.
    tools: Annotated[list[Any], Field(max_length=1024)] | None = None
    functions: Annotated[list[Any], Field(max_length=1024)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    function_call: Literal["none", "auto"] | None = None
    modalities: list[Literal["text"]] | None = None
    parallel_tool_calls: bool | None = None  # ignored: there are no tools
    verbosity: str | None = None  # ignored


class InspectBody(Strict):
    """POST /v1/inspect: a text, or a conversation, and what was said after it, looked into."""

    model: str = Field(min_length=1, max_length=512)
    prompt: str | TokenIds | None = None
    messages: Messages | None = None  # instead of a prompt
    continuation: str | TokenIds | None = None
    num_loops: int | None = Field(None, ge=1, le=MOST)
    exit: str | None = Field(None, min_length=1, max_length=64)
    top: int | None = Field(None, ge=1, le=ALTERNATIVES)
    first: int | None = Field(None, ge=0, le=MOST)


def documented(model: type[BaseModel]) -> dict[str, Any]:
    """The body in an OpenAPI document; its parts are referred to as components."""
    reference = {"$ref": f"#/components/schemas/{model.__name__}"}
    return {
        "requestBody": {"required": True, "content": {"application/json": {"schema": reference}}}
    }
