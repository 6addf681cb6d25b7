"""The engine behind vLLM's interface, against a scripted server: what it sends, reads, refuses and lets go of."""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace

import pytest

from paceline.base.errors import ConfigError, WorkError
from paceline.inference.backend import AnswerOptions
from paceline.inference.vllm_sampler import SEED_ARGUMENT
from paceline.node.backends import vllm_server
from paceline.node.backends.vllm_backend import VllmBackend, read_chunk
from paceline.node.backends.vllm_server import Address, ServerSettings, VllmServer, build_order, find_python
from paceline.node.settings import NodeSettings, PeerEntry
from paceline.protocol.transcripts import GenerationRequest, GrammarSpec, SamplerSpec

KEY = "secret"
LETTERS = "abcdefghijklmnop"


class Text:
    def push(self, token_id):
        return LETTERS[token_id]


MODEL = SimpleNamespace(
    model_id="m",
    content_hash=bytes(32),
    engine="torch-cpu-bf16-1",
    eos_token_ids=(0,),
    context_tokens=16,
    vocab_size=16,
    open_detokeniser=Text,
)


def make_request(*, engine="vllm-cpu-bf16-1", prompt=(1, 2, 3), **sampler) -> GenerationRequest:
    fields = {"temperature_ppm": 0, "top_p_ppm": 1_000_000, "max_tokens": 4, "stop": (), **sampler}
    return GenerationRequest(
        model_id="m",
        model_hash=bytes(32),
        engine=engine,
        sampler=SamplerSpec(**fields),
        seed=b"s" * 32,
        prompt_tokens=prompt,
    )


def make_chunk(*tokens: int, **fields) -> str:
    logprobs = {"token_logprobs": [-0.5 * token for token in tokens]}
    return json.dumps({"choices": [{"text": "?", "token_ids": list(tokens), "logprobs": logprobs, **fields}]})


class ScriptedServer:
    """Speaks just enough HTTP; sends each piece as one event, waits where a piece is None, notes a closed stream."""

    def __init__(self, *pieces: str | None, status: int = 200) -> None:
        self.pieces, self.status = pieces, status
        self.bodies: list[dict] = []
        self.headers = ""
        self.closed = asyncio.Event()

    async def __call__(self, reader, writer) -> None:
        self.headers = (await reader.readuntil(b"\r\n\r\n")).decode()
        length = int(self.headers.lower().split("content-length: ")[1].split("\r\n")[0])
        self.bodies.append(json.loads(await reader.readexactly(length)))
        writer.write(
            f"HTTP/1.1 {self.status} X\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".encode()
        )
        for piece in self.pieces:
            if piece is None:
                assert await reader.read(1) == b""
                self.closed.set()
            else:
                writer.write(f"data: {piece}\n\n".encode())
                await writer.drain()
        writer.close()


def run(server: ScriptedServer, request: GenerationRequest, *, stop_after: int = 99, top_logprobs: int = 0):
    """(steps, error) of one request, generated on a thread as a node does."""

    async def main():
        listener = await asyncio.start_server(server, "127.0.0.1", 0)
        port = listener.sockets[0].getsockname()[1]
        backend = VllmBackend(SimpleNamespace(address=Address(f"http://127.0.0.1:{port}", KEY)))
        steps = []

        def generate():
            should_stop = lambda: len(steps) + 1 >= stop_after  # noqa: E731 - one of two arguments
            steps.extend(
                backend.generate(MODEL, request, AnswerOptions(should_stop=should_stop, top_logprobs=top_logprobs))
            )

        try:
            await asyncio.to_thread(generate)
        except WorkError as problem:
            return steps, problem
        finally:
            if None in server.pieces:
                await asyncio.wait_for(server.closed.wait(), 10)
            listener.close()
            await backend._client.aclose()
        return steps, None

    return asyncio.run(main())


def test_tokens_become_steps_with_text_logprobs_and_an_end():
    server = ScriptedServer(make_chunk(3), make_chunk(4, 5), make_chunk(0), "[DONE]")
    steps, problem = run(server, make_request())
    assert problem is None
    assert [(step.token_id, step.text, step.finish_reason) for step in steps[:3]] == [
        (3, "d", None),
        (4, "e", None),
        (5, "f", None),
    ]
    assert steps[3].finish_reason == "stop"
    assert steps[1].logprob_micronats == -2_000_000


def test_what_is_sent_is_greedy_to_vllm_and_seeded_to_us():
    server = ScriptedServer(make_chunk(0))
    run(server, make_request(max_tokens=9, temperature_ppm=700_000))
    (body,) = server.bodies
    assert (body["prompt"], body["max_tokens"], body["temperature"]) == ([1, 2, 3], 9, 0)
    assert body["vllm_xargs"][SEED_ARGUMENT] == (b"s" * 32).hex()
    assert f"authorization: Bearer {KEY}".lower() in server.headers.lower()


def test_the_likeliest_tokens_come_best_first_and_no_more_than_asked_for():
    logprobs = {
        "token_logprobs": [-3.0],
        "top_logprobs": [{"token_id:9": -3.0, "token_id:7": -0.2, "token_id:5": -0.2}],
    }
    server = ScriptedServer(json.dumps({"choices": [{"token_ids": [9], "logprobs": logprobs}]}), make_chunk(0))
    steps, _ = run(server, make_request(), top_logprobs=2)
    assert server.bodies[0]["logprobs"] == 2
    assert steps[0].top == ((5, -200_000), (7, -200_000))


def test_the_context_bounds_an_answer_that_asks_for_more():
    steps, problem = run(ScriptedServer(*[make_chunk(1)] * 4), make_request(prompt=(1,) * 13, max_tokens=9))
    assert problem is None
    assert [step.finish_reason for step in steps] == [None, None, "length"]


def test_a_stop_string_ends_the_answer_and_closes_the_stream():
    steps, problem = run(ScriptedServer(make_chunk(2), make_chunk(3), make_chunk(4), None), make_request(stop=("de",)))
    assert problem is None
    assert "".join(step.text for step in steps) == "c"
    assert [step.finish_reason for step in steps] == [None, None, "stop"]


def test_cancelling_in_mid_answer_closes_the_stream():
    steps, problem = run(ScriptedServer(make_chunk(2), make_chunk(3), None), make_request(), stop_after=2)
    assert problem is None
    assert [step.finish_reason for step in steps] == [None, "cancelled"]


def test_cancelling_before_the_first_token_closes_the_stream():
    assert run(ScriptedServer(None), make_request(), stop_after=0) == ([], None)


def test_invalid_endings_are_failures_never_short_answers():
    for pieces in (("[DONE]",), (make_chunk(3),), (make_chunk(3), "{"), (json.dumps({"error": {"message": "lost"}}),)):
        _, problem = run(ScriptedServer(*pieces), make_request())
        assert isinstance(problem, WorkError), pieces


def test_invalid_a_server_that_refuses_or_is_gone():
    _, problem = run(ScriptedServer("no", status=400), make_request())
    assert "400" in str(problem)

    async def main():
        backend = VllmBackend(SimpleNamespace(address=Address("http://127.0.0.1:9", KEY)))
        work = backend.generate(MODEL, make_request(), AnswerOptions(should_stop=lambda: False))
        with pytest.raises(WorkError, match="broke off: ConnectError"):
            await asyncio.to_thread(list, work)
        await backend._client.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "changes",
    [{"engine": "torch-cpu-bf16-1"}, {"prompt": (1,) * 16}, {"prompt": (16,)}],
    ids=["engine", "full", "token"],
)
def test_invalid_requests_never_reach_the_server(changes):
    server = ScriptedServer()
    _, problem = run(server, make_request(**changes))
    assert isinstance(problem, WorkError)
    assert not server.bodies


def test_invalid_grammars_are_refused_by_name():
    _, problem = run(ScriptedServer(), make_request(grammar=GrammarSpec("json_object", "", "e-1")))
    assert "grammars" in str(problem)


def test_invalid_chunks_without_logprobs():
    assert read_chunk(make_chunk()) == []
    with pytest.raises(WorkError, match="1 tokens with 0 logprobs"):
        read_chunk(json.dumps({"choices": [{"token_ids": [1]}]}))


def make_settings(folder, python="python3", **changes) -> ServerSettings:
    prepared = folder / "prepared"
    prepared.mkdir(exist_ok=True)
    (prepared / "config.json").write_text(
        json.dumps({"model_type": changes.pop("model_type", "llama"), "hidden_size": 8})
    )
    return ServerSettings(
        python=python,
        model_path=prepared,
        model_id="m",
        eos_token_ids=(2, 0),
        context_tokens=16,
        folder=folder / "vllm",
        **changes,
    )


def test_the_view_of_a_model_adds_what_vllm_needs_and_leaves_the_model_alone(tmp_path):
    settings = make_settings(tmp_path)
    view = vllm_server.write_model_view(settings)
    assert vllm_server.write_model_view(settings) == view
    config = json.loads((view / "config.json").read_text())
    assert (config["architectures"], config["hidden_size"]) == (["LlamaForCausalLM"], 8)
    assert json.loads((view / "generation_config.json").read_text()) == {"eos_token_id": [2, 0]}
    assert (view / "model.safetensors").readlink() == (settings.model_path / "model.safetensors").resolve()
    assert sorted(path.name for path in settings.model_path.iterdir()) == ["config.json"]


def test_invalid_models_of_a_family_that_is_not_wired(tmp_path):
    with pytest.raises(ConfigError, match="gemma"):
        vllm_server.write_model_view(make_settings(tmp_path, model_type="gemma3"))


def test_an_operators_options_come_last(tmp_path):
    order = build_order(make_settings(tmp_path, options=("--max-num-seqs", "4")), tmp_path, 1, KEY)
    assert order["arguments"][-2:] == ["--max-num-seqs", "4"]
    assert KEY not in order["arguments"]


def test_invalid_environments_are_named(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="vllm_python names no program"):
        find_python(str(tmp_path / "none"))
    monkeypatch.setattr(vllm_server, "TOOL", tmp_path / "none")
    with pytest.raises(ConfigError, match="make tools-vllm"):
        find_python("")


def make_program(folder, script: str):
    program = folder / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


def test_invalid_a_server_that_never_answers_ends_the_node_with_its_last_words(tmp_path):
    settings = make_settings(tmp_path, make_program(tmp_path, "read order; echo no such model >&2; exit 3"))
    with pytest.raises(ConfigError, match="code 3: no such model"):
        asyncio.run(VllmServer(settings).run())


def test_a_server_that_starts_takes_no_requests_and_ends_with_the_node(tmp_path):
    async def main():
        server = VllmServer(make_settings(tmp_path, make_program(tmp_path, "exec sleep 60")))
        runner = asyncio.create_task(server.run())
        while server.pid is None:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0)
        backend = VllmBackend(server)
        with pytest.raises(WorkError, match="not ready"):
            backend.check_ready()
        process = server._process
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)
        await backend._client.aclose()
        return process.returncode

    assert asyncio.run(main()) == -15


FAKE_SERVER = """#!{python} -u
import http.server, json, sys
order = json.loads(sys.stdin.readline())
port = int(order["arguments"][order["arguments"].index("--port") + 1])
class Healthy(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
http.server.HTTPServer(("127.0.0.1", port), Healthy).serve_forever()
"""


def test_a_server_that_dies_after_it_was_ready_is_not_ready_any_more_and_comes_back(tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_server, "POLL_SECONDS", 0.2)
    monkeypatch.setattr(vllm_server, "FIRST_PAUSE_SECONDS", 0.02)
    program = tmp_path / "program"
    program.write_text(FAKE_SERVER.format(python=sys.executable))
    program.chmod(0o755)

    async def wait_other(server, former):
        while server._address in {None, former}:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.01)
        return server.address

    async def main():
        server = VllmServer(make_settings(tmp_path, program))
        runner = asyncio.create_task(server.run())
        async with asyncio.timeout(60):
            first = await wait_other(server, None)
            process = server._process
            process.kill()
            await process.wait()
            second = await wait_other(server, first)
        assert first.key != second.key
        runner.cancel()
        await asyncio.gather(runner, return_exceptions=True)
        with pytest.raises(WorkError, match="not ready"):
            _ = server.address
        assert server.pid is None

    asyncio.run(main())


def test_invalid_a_server_that_never_gets_ready_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(vllm_server, "START_SECONDS", 0.01)
    with pytest.raises(ConfigError, match="code -9"):
        asyncio.run(VllmServer(make_settings(tmp_path, make_program(tmp_path, "exec sleep 60"))).run())


def test_settings_name_the_backend_and_refuse_what_has_no_effect():
    peer = PeerEntry(name="a", public_key="", url="http://127.0.0.1:1")
    plain = {"name": "a", "sequencer": "a", "peers": (peer,)}
    assert NodeSettings(**plain, backend="vllm", vllm_threads=4).vllm_threads == 4
    for changes in (
        {"backend": "llama"},
        {"vllm_threads": 2},
        {"backend": "vllm", "vllm_kv_cache_gib": 0},
        {"backend": "vllm", "cheat": "cheap-model"},
    ):
        with pytest.raises(ConfigError):
            NodeSettings(**plain, **changes)
