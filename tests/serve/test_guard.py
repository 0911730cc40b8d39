"""The guard: who comes in, and that every refusal has one form and a name."""

from typing import Any

import pytest


ANN, BOB = "ann's-secret-key-1234", "bob's-secret-key-1234"
COMPLETIONS = "/v1/completions"


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_without_the_key_only_signs_of_life_are_shown(
    build_service: Any, talk: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(client: Any) -> Any:
        body = {"model": "tiny", "prompt": "a", "max_tokens": 2}
        paths = ["/v1/models", "/metrics", "/nowhere", "/v1/models/tiny"]
        refused = [await client.get(path) for path in paths]
        refused.append(await client.post(COMPLETIONS, json=body))
        refused.append(await client.post(COMPLETIONS, json=body, headers=bearer("x" * 20)))
        shown = [await client.get(path) for path in ("/", "/health", "/ready", "/openapi.json")]
        shown.append(await client.post(COMPLETIONS, json=body, headers=bearer(ANN)))
        shown.append(await client.get("/metrics", headers=bearer(ANN)))
        return refused, shown

    with caplog.at_level("INFO"):
        refused, shown = talk(build_service(keys={"ann": ANN}), script)
    assert {one.status_code for one in refused} == {401}
    assert all(one.json()["error"]["code"] == "invalid_api_key" for one in refused)
    assert {one.status_code for one in shown} == {200}
    assert all(ANN not in str(vars(record)) for record in caplog.records)
    assert any(getattr(r, "told", {}).get("caller") == "ann" for r in caplog.records)


def test_a_key_has_its_own_rate(build_service: Any, talk: Any) -> None:
    service = build_service(keys={"ann": ANN, "bob": BOB}, key_per_minute=2)

    async def script(client: Any) -> Any:
        body = {"model": "tiny", "prompt": "a", "max_tokens": 1}
        asked = [ANN, ANN, ANN, BOB]
        return [await client.post(COMPLETIONS, json=body, headers=bearer(key)) for key in asked]

    answers = talk(service, script)
    assert [one.status_code for one in answers] == [200, 200, 429, 200]
    assert 1 <= int(answers[2].headers["retry-after"]) <= 60
    assert answers[2].json()["error"]["code"] == "rate_limit_exceeded"


def test_pages_of_other_sites_get_nothing(build_service: Any, talk: Any, post: Any) -> None:
    async def script(client: Any) -> Any:
        hosts = ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""]
        away = [await client.get("/v1/models", headers={"Host": host}) for host in hosts]
        hosts = ["127.0.0.1", "localhost:8000", "[::1]:8000", "127.0.0.1:9"]
        return away, [await client.get("/v1/models", headers={"Host": host}) for host in hosts]

    away, home = talk(build_service(), script)
    assert {one.status_code for one in away} == {421}
    assert {one.status_code for one in home} == {200}


def test_every_answer_has_a_name_and_prompts_are_not_logged(
    build_service: Any, talk: Any, post: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(client: Any) -> Any:
        return await post(client, COMPLETIONS, prompt="my secret", max_tokens=2)

    with caplog.at_level("INFO"):
        answer = talk(build_service(), script)
    [told] = [r.told for r in caplog.records if hasattr(r, "told")]
    assert told["id"] == answer.headers["x-request-id"]
    assert (told["status"], told["tokens"]) == (200, answer.json()["usage"]["completion_tokens"])
    assert "secret" not in str([vars(record) for record in caplog.records])
    caplog.clear()
    with caplog.at_level("INFO"):
        talk(build_service(log_prompts=True), script)
    [told] = [r.told for r in caplog.records if hasattr(r, "told")]
    assert "my secret" in told["asked"]


def test_an_ending_server_takes_nobody(build_service: Any, talk: Any, post: Any) -> None:
    service = build_service()

    async def script(client: Any) -> Any:
        service.ending = True
        return await post(client, COMPLETIONS, prompt="a"), await client.get("/ready")

    answer, ready = talk(service, script)
    assert (answer.status_code, ready.status_code) == (503, 503)
    assert "retry-after" in answer.headers
