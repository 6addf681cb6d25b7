"""Can others reach the addresses that a newcomer will name? A node calls back to whoever asks, and only to it.

The answer goes to the address the question came from, never to one that the question names, so nobody can make a node
knock at a third party's door.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated

import httpx
from msgspec import Meta

from paceline.base.errors import ConfigError, TransportError
from paceline.network.public import PublicRequest
from paceline.protocol.codec import Record, decode, encode

CALL_SECONDS = 5.0
SALT_BYTES = 16
MAX_QUESTION_BYTES = 256
Port = Annotated[int, Meta(ge=1, le=65_535)]


class ProbeQuestion(Record, frozen=True):
    """Ports of the asker that should send this salt to whoever connects."""

    ports: Annotated[tuple[Port, ...], Meta(min_length=1, max_length=2)]
    salt: Annotated[bytes, Meta(min_length=SALT_BYTES, max_length=SALT_BYTES)]


class ProbeAnswer(Record, frozen=True):
    """The ports that answered with the salt, as seen from outside."""

    host: str
    reached: tuple[int, ...]


async def answer_probe(request: PublicRequest) -> bytes:
    """Connect back to the asker. Errors: InvalidTransaction for a question that is none."""
    question = decode(ProbeQuestion, request.body, limit_bytes=MAX_QUESTION_BYTES)
    reached = [port for port in question.ports if await _echoes(request.host, port, question.salt)]
    return encode(ProbeAnswer(request.host, tuple(reached)))


async def ask_probe(url: str, listen: str, ports: tuple[int, ...]) -> ProbeAnswer:
    """Open the ports here for a moment and ask a node whether it reaches them.

    Errors: ConfigError when a port cannot be opened here; TransportError when the node does not answer.
    """
    salt = secrets.token_bytes(SALT_BYTES)
    async with _echo_on(listen, ports, salt), httpx.AsyncClient(trust_env=False, timeout=4 * CALL_SECONDS) as client:
        try:
            reply = await client.post(f"{url}/public/probe", content=encode(ProbeQuestion(ports, salt)))
        except httpx.TransportError as problem:
            raise TransportError(f"{url} does not answer: {problem!r}") from None
    if reply.status_code != httpx.codes.OK:
        raise TransportError(f"{url} did not try to reach this machine (status {reply.status_code})")
    return decode(ProbeAnswer, reply.content, limit_bytes=MAX_QUESTION_BYTES)


@asynccontextmanager
async def _echo_on(listen: str, ports: tuple[int, ...], salt: bytes) -> AsyncIterator[None]:
    async def echo(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(salt)
        await writer.drain()
        writer.close()

    servers: list[asyncio.Server] = []
    try:
        for port in ports:
            try:
                servers.append(await asyncio.start_server(echo, listen, port))
            except OSError as problem:
                raise ConfigError(
                    f"port {port} on {listen} cannot be used ({problem.strerror}); choose another with --peer-port"
                ) from None
        yield
    finally:
        for server in servers:
            server.close()


async def _echoes(host: str, port: int, salt: bytes) -> bool:
    try:
        async with asyncio.timeout(CALL_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                return await reader.readexactly(SALT_BYTES) == salt
            finally:
                writer.close()
    except (OSError, TimeoutError, asyncio.IncompleteReadError):
        return False
