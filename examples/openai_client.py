"""Asks a running network through the unmodified official client: models, a streamed answer, a refused request.

Run `paceline up` in one terminal, then `python examples/openai_client.py` in another. An argument names another base URL.
"""

from __future__ import annotations

import sys

from openai import APIConnectionError, NotFoundError, OpenAI

BASE_URL = "http://127.0.0.1:8000/v1"
QUESTION = "In one sentence: why do racing cyclists take turns at the front?"


def list_models(client: OpenAI) -> str:
    """Print what the network serves and return the first model's name."""
    names = [model.id for model in client.models.list()]
    print("models:", ", ".join(names))
    return names[0]


def ask_streamed(client: OpenAI, model: str) -> None:
    """Print an answer as it comes, with who was drawn to give it and what it used."""
    raw = client.chat.completions.with_raw_response.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=60,
        temperature=0.7,
        stream=True,
        stream_options={"include_usage": True},
    )
    print(f"\n{QUESTION}\nanswered by {raw.headers.get('x-paceline-executor')}:\n")
    for chunk in raw.parse():
        if chunk.choices and chunk.choices[0].delta.content:
            print(chunk.choices[0].delta.content, end="", flush=True)
        if chunk.usage:
            print(f"\n\n{chunk.usage.prompt_tokens} tokens read, {chunk.usage.completion_tokens} written")


def ask_for_unknown_model(client: OpenAI) -> None:
    """Show the error of a request that cannot be served; nothing is charged for it."""
    try:
        client.chat.completions.create(model="no-such-model", messages=[{"role": "user", "content": "Hello?"}])
    except NotFoundError as problem:
        print(f"\nrefused with {problem.status_code}: {problem.body}")


def main() -> None:
    """Ask, and say plainly when there is nobody to ask."""
    base_url = sys.argv[1] if len(sys.argv) > 1 else BASE_URL
    client = OpenAI(base_url=base_url, api_key="demo")
    try:
        model = list_models(client)
    except APIConnectionError:
        sys.exit(f"nothing answers at {base_url}: start `paceline up` first")
    ask_streamed(client, model)
    ask_for_unknown_model(client)


if __name__ == "__main__":
    main()
