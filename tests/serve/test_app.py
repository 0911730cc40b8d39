"""The app: addresses, models, states, and a document that says what there is."""

from typing import Any

import pytest

from open_mythos.serve.app import build_app


def test_models_and_states_are_told(build_service: Any, talk: Any) -> None:
    async def script(client: Any) -> Any:
        paths = ("/v1/models", "/v1/models/tiny", "/v1/models/other/one", "/health", "/ready", "/")
        return [await client.get(path) for path in paths]

    models, model, other, health, ready, root = talk(build_service(), script)
    [told] = models.json()["data"]
    assert told == model.json()
    assert (told["id"], told["max_loops"]) == ("tiny", 4)
    assert (other.status_code, other.json()["error"]["code"]) == (404, "model_not_found")
    assert [one.status_code for one in (health, ready, root)] == [200] * 3


def test_wrong_addresses_methods_and_models_have_openais_errors(
    build_service: Any, talk: Any, post: Any
) -> None:
    async def script(client: Any) -> Any:
        body = {"model": "gpt-9", "prompt": "x"}
        return [
            await client.get("/v1/nothing"),
            await client.get("/v1/completions"),
            await client.delete("/v1/models"),
            await client.post("/v1/completions", json=body),
        ]

    answers = talk(build_service(), script)
    assert [one.status_code for one in answers] == [404, 405, 405, 404]
    assert all(one.json()["error"]["message"] for one in answers)
    assert answers[3].json()["error"]["code"] == "model_not_found"


def test_metrics_follow_what_was_asked(build_service: Any, talk: Any, post: Any) -> None:
    async def script(client: Any) -> Any:
        answer = await post(client, "/v1/completions", prompt="abc", max_tokens=5)
        return answer.json()["usage"], (await client.get("/metrics")).text

    usage, text = talk(build_service(), script)
    for line in (
        f"open_mythos_prompt_tokens_total {usage['prompt_tokens']}.0",
        f"open_mythos_tokens_total {usage['completion_tokens']}.0",
        f"open_mythos_loops_total {usage['loops']}.0",
        "open_mythos_in_flight 0.0",
        "open_mythos_engine_running 0.0",
    ):
        assert line in text.splitlines()


def test_the_document_has_bodies_and_their_parts(build_service: Any) -> None:
    document = build_app(build_service()).openapi()
    known = document["components"]["schemas"]

    def references(value: Any) -> Any:
        if isinstance(value, dict):
            if "$ref" in value:
                yield value["$ref"]
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    found = set(references(document))
    assert "#/components/schemas/CompletionBody" in found
    assert {name.removeprefix("#/components/schemas/") for name in found} <= set(known)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the library that makes the requests
def test_no_request_of_the_documents_form_breaks_anything(
    build_service: Any, listening: Any
) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import given, settings
    from schemathesis import GenerationMode

    service = build_service()
    with listening(service) as url:
        schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
        statuses: set[int] = set()
        for found in schema.get_all_operations():
            operation = found.ok()
            wrong = [GenerationMode.NEGATIVE] if operation.body else []  # there is no wrong GET
            for mode in [GenerationMode.POSITIVE, *wrong]:

                @settings(max_examples=40, deadline=None, database=None)
                @given(case=operation.as_strategy(generation_mode=mode))
                def check(case: Any) -> None:
                    answer = case.call(base_url=url)
                    statuses.add(answer.status_code)
                    assert answer.status_code < 500, (case.method, case.path, case.body)

                check()
    assert {200, 400, 404} <= statuses
    assert service.front.engine.stats.used == 0
