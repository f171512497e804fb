"""A program of a trio-typing user: its stubs for Trio, its plugin for mypy, the public names of trioanytls.

`nox -s typecheck_compat` checks it with mypy and then runs it. `assert_type` is there because a name whose type was
lost would be `Any`, and would pass everything else. Each `type: ignore` marks an error that mypy must find: if
it did not, the comment would be unused, which is an error.
"""

from __future__ import annotations

import functools
import ssl
from typing import assert_type

import trio
import trio.testing
import trio_typing

import trioanytls


async def echo(stream: trioanytls.Stream) -> None:
    """Send back what arrives."""
    async for piece in stream:
        await stream.send_all(piece)


async def ask(stream: trio.abc.Stream, question: bytes) -> bytes:
    """Send the question to an echo and collect its answer."""
    async with stream:
        await stream.send_all(question)
        answer = b""
        while len(answer) < len(question):
            piece = await stream.receive_some(65536)
            if not piece:
                raise EOFError("the stream ended before the whole answer had come")
            answer += piece
        return answer


async def use_connection(connection: trioanytls.Connection) -> None:
    """Use a connection as a client, regardless of how it was opened."""
    stream = await connection.open_stream()
    assert_type(stream, trioanytls.Stream)
    assert_type(stream.stream_id, int)
    assert_type(stream.connection, trioanytls.Connection)
    assert_type(await ask(stream, b"hello"), bytes)

    async with await connection.open_stream() as second:
        await second.wait_acknowledged()
        await second.wait_send_all_might_not_block()

    assert_type(await connection.ping(), float)
    assert_type(connection.closed, bool)
    assert_type(connection.user, str | None)
    assert_type(connection.peer_identifier, str | None)
    assert_type(connection.version, int | None)
    assert_type(connection.padding_scheme, trioanytls.PaddingScheme)
    assert_type(connection.stats, trioanytls.ConnectionStats)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, await connection.open_stream(), b"one")
        nursery.start_soon(ask, await connection.open_stream(), b"two")

    def mistakes() -> None:
        nursery.start_soon(ask, stream, "text")  # type: ignore[arg-type]
        connection.ping(1, 2)  # type: ignore[call-arg, unused-coroutine]


async def over_tls(port: int, server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    """Run a server and a client on one machine. This is only type checked, as it needs certificates."""
    async with trio.open_nursery() as nursery:
        server = functools.partial(
            trioanytls.serve,
            echo,
            port,
            host="127.0.0.1",
            ssl_context=server_context,
            users={"alice": "open sesame"},
        )
        await nursery.start(server)
        async with trioanytls.open_connection(
            "localhost",
            port,
            password="open sesame",
            ssl_context=client_context,
            config=trioanytls.Config(keepalive_interval=30),
        ) as connection:
            assert_type(connection, trioanytls.Connection)
            await use_connection(connection)
        nursery.cancel_scope.cancel()


async def listen(
    transport: trio.abc.Stream, *, task_status: trio_typing.TaskStatus[str] = trio.TASK_STATUS_IGNORED
) -> None:
    """Serve one connection, for `nursery.start`."""
    task_status.started("listening")
    await trioanytls.serve_connection(transport, echo, users={"alice": "open sesame"})


async def over_memory() -> None:
    """Run both in memory, without TLS or sockets."""
    client_half, server_half = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        assert_type(await nursery.start(listen, server_half), str)
        scheme = trioanytls.PaddingScheme.parse(trioanytls.PaddingScheme.DEFAULT.to_bytes())
        assert_type(scheme.digest, str)
        async with trioanytls.wrap_client(client_half, password="open sesame", padding_scheme=scheme) as connection:
            assert_type(connection, trioanytls.Connection)
            await use_connection(connection)


async def errors(connection: trioanytls.Connection) -> str:
    """Check the error tree: errors are also Trio's if Trio has a corresponding one."""
    try:
        await connection.open_stream()
    except (trioanytls.StreamRefused, trioanytls.StreamTimeout) as error:
        broken: trio.BrokenResourceError = error
        return str(broken)
    except trioanytls.ConnectionClosed as error:
        broken = error
        assert_type(error.reason, str)
        return f"{broken}: {error.code}"
    except (trioanytls.SchemeError, trioanytls.DataBlockError) as error:
        wrong: ValueError = error
        return str(wrong)
    except trioanytls.AnyTLSError as error:
        return str(error)
    return ""


if __name__ == "__main__":
    trio.run(over_memory)
