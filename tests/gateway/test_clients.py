"""Both clients against a real gateway: the asynchronous one for programs, the synchronous one of the command line."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from p2pkv.client import Client
from p2pkv.commands.client import Client as CommandClient
from p2pkv.errors import IncompleteError, InvalidError, NotFoundError, P2pkvError, RefusedError, UnreachableError
from p2pkv.gateway.http import Gateway
from p2pkv.outcomes import BatchChange, TransferProgress
from tests.gateway.conftest import until

CONTENT = bytes(range(256)) * 5000


class Same:
    """Either client behind one asynchronous face, so that one test holds both to the same behaviour."""

    def __init__(self, client):
        self.client = client
        self.threaded = isinstance(client, CommandClient)

    async def call(self, method, *args, **options):
        result = getattr(self.client, method)
        if self.threaded:
            return await asyncio.to_thread(result, *args, **options)
        return await result(*args, **options)

    async def all(self, method, *args, **options):
        return await self.drain(getattr(self.client, method)(*args, **options))

    async def drain(self, items):
        if self.threaded:
            return await asyncio.to_thread(list, items)
        return [item async for item in items]


@pytest.fixture(params=["async", "command line"])
async def client(request, gateway, home):
    if request.param == "async":
        async with Client(home) as client:
            yield Same(client)
    else:
        with CommandClient(home / "peer.sock") as client:
            yield Same(client)


@pytest.mark.parametrize("key", ["sensor/7", b"\xff\x00/", b"..", b".", "?&=#% +", "é"])
async def test_records_round_trip(client, key):
    outcome = await client.call("put", key, b"\x00\xff")
    assert outcome.reached
    await client.call("put", key, b"text", name="a/b ?%")
    records = await client.all("get", key)
    assert [record.value for record in records] == [b"\x00\xff", b"text"]
    assert [r.value for r in await client.all("get", key, after=records[0].cursor)] == [b"text"]
    assert [r.value for r in await client.all("get", key, limit=1, reverse=True)] == [b"text"]
    assert await client.all("get", key, since_s=0, until_s=records[1].time + 1) == records
    assert await client.all("get", key, until_s=records[0].time) == []
    assert [r.value for r in await client.all("get", key, name="a/b ?%")] == [b"text"]
    assert b"".join(await client.all("stream", key, records[1])) == b"text"
    assert await client.call("count", key) == 2
    raw = key.encode() if isinstance(key, str) else key
    assert await client.all("keys", raw[:1]) == [(raw, 2)]
    assert await client.call("delete", key, name="a/b ?%") == 1
    assert await client.call("delete", key) == 1
    assert await client.all("get", key) == []


@pytest.mark.parametrize("name", ["", ".", "..", "é/?#"])
async def test_names_round_trip(client, name):
    await client.call("put", "k", b"v", name=name)
    record = (await client.all("get", "k", name=name))[0]
    assert record.name == name
    assert await client.all("stream", "k", record) == [b"v"]


async def test_many_records(client, peer):
    values = [str(number).encode() for number in range(3000)] + [b"\xff" * 3_000_000, b""]
    outcomes = await client.all("put_many", "k", values, own=True)
    assert len(outcomes) == len(values)
    assert all(outcome.reached for outcome in outcomes)
    held = [peer.long[b"k", record.name] for record in peer.records[b"k"]]
    assert held == values


async def test_a_batch_goes_and_comes_back_as_it_was(client, peer):
    changes = [
        BatchChange(b"k", b"text", "n", ttl_s=60.0, own=True),
        BatchChange(b"\xff", b"\xfe" * 3000, None),
        BatchChange(b"k", b"", "gone", delete=True),
        BatchChange(b"k", b"", "empty"),
    ]
    outcome = await client.call("put_batch", changes, acks="all")
    assert peer.calls == [("put_batch", {"changes": changes, "acks": "all"})]
    assert [(record.key, record.deleted) for record in outcome.records] == [
        (b"k", False),
        (b"\xff", False),
        (b"k", True),
        (b"k", False),
    ]
    assert outcome.batch == "ab" * 16
    assert outcome.records[0].outcome.reached
    with pytest.raises(RefusedError, match="nothing of the batch was stored"):
        await client.call("put_batch", [BatchChange("a", b"1", "refused")])


async def test_what_was_not_reached_is_told_by_its_outcome(client, peer):
    peer.stored = 3
    with pytest.raises(IncompleteError) as caught:
        await client.call("put", "k", b"x", acks="all")
    outcome = caught.value.outcome
    assert (outcome.reached, outcome.stored, len(outcome.failures)) == (False, 3, 5)
    assert [outcome.reached for outcome in await client.all("put_many", "k", [b"y"])] == [False]


async def test_errors_are_what_they_were(client, peer):
    await client.call("put", "k", b"x", name="n", once=True)
    with pytest.raises(RefusedError) as refused:
        await client.call("put", "k", b"y", name="n", once=True)
    assert (refused.value.current, refused.value.mend) == ("v0", "choose another name")
    with pytest.raises(InvalidError):
        await client.call("put", "", b"x")
    with pytest.raises(NotFoundError):
        await client.call("delete_file", "nothing")
    peer.fail_after = 1
    with pytest.raises(IncompleteError, match="page 3 is silent"):
        await client.all("get", "k")
    peer.fail_with = RuntimeError("a bug")
    with pytest.raises(P2pkvError, match="RuntimeError"):
        await client.all("get", "k")


async def test_files_of_this_machine(client, peer, home):
    (home / "source").write_bytes(CONTENT)
    steps = []
    outcome = await client.call("upload", home / "source", "a/b", progress=steps.append)
    assert (outcome.size, outcome.replicas) == (len(CONTENT), 8)
    outcome = await client.call("download", "a/b", home / "target", progress=steps.append)
    assert (home / "target").read_bytes() == CONTENT
    assert [step.phase for step in steps] == ["sending", "fetching"]
    assert all(isinstance(step, TransferProgress) for step in steps)
    await client.call("download", "a/b", home / "part", byte_range=(2, 3))
    assert (home / "part").read_bytes() == CONTENT[2:4]
    assert [info.name for info in await client.all("list_files", "a/")] == ["a/b"]
    stat = await client.call("stat_file", "a/b")
    assert (stat.info.size, stat.healthy) == (len(CONTENT), True)
    assert await client.call("delete_file", "a/b") == 1


async def test_streams_of_bytes(client, peer):
    async def blocks():
        for at in range(0, len(CONTENT), 100_000):
            yield CONTENT[at : at + 100_000]

    source = [CONTENT[:1000], b"", CONTENT[1000:]] if client.threaded else blocks()
    outcome = await client.call("upload", source, "n", to="folder/")
    assert outcome.size == len(CONTENT)
    info, content = await client.call("open_file", "folder/n")
    assert info.name == "folder/n"
    assert b"".join(await client.drain(content)) == CONTENT
    _, content = await client.call("open_file", "folder/n", byte_range=(5, 9))
    assert b"".join(await client.drain(content)) == CONTENT[5:10]
    with pytest.raises(InvalidError):
        await client.call("open_file", "folder/n", byte_range=(9, 5))
    with pytest.raises(InvalidError):
        await client.call("open_file", "folder/n", byte_range=(10**9, 10**9))


async def test_a_download_that_breaks_is_not_taken_for_whole(client, peer):
    peer.files["n"] = CONTENT
    peer.fail_after = 2
    _, content = await client.call("open_file", "n")
    with pytest.raises(IncompleteError, match="cut off"):
        await client.drain(content)


async def test_a_stream_without_its_end_is_incomplete(client, gateway, peer, monkeypatch):
    await client.call("put", "k", b"x")
    monkeypatch.setattr("p2pkv.gateway.answers._end", lambda pipe: {"name": "no end"})
    with pytest.raises((IncompleteError, ValueError)):
        await client.all("list_files")


async def test_the_peer_itself(client, peer):
    status = await client.call("status")
    assert (status.contacts, status.counters) == (1, {"rpc.requests": 7})
    assert (await client.call("peers"))[0].kind == "p2pkv"
    assert (await client.call("where", "k"))[0].holds is False
    assert (await client.call("trace", "k")).hops[0].rtt_ms == 1.0
    assert await client.call("config") == {"k": 8}
    assert await client.call("verify") == {"chunks_checked": 3}
    assert await client.call("repair") == {"restored": 0}
    await client.call("stop")
    assert peer.stopping


async def test_watch_ends_with_its_reader(client, peer):
    await client.call("put", "k", b"x")
    records = client.client.watch("k")
    first = await (asyncio.to_thread(next, records) if client.threaded else anext(records))
    assert first.value == b"x"
    assert peer.running == 1
    await (asyncio.to_thread(records.close) if client.threaded else records.aclose())
    await until(lambda: peer.running == 0)


async def test_without_a_peer(home):
    with pytest.raises(UnreachableError):
        async with Client(home):
            pass
    with pytest.raises(UnreachableError), CommandClient(home / "peer.sock") as client:
        client.status()


def test_the_command_lines_client_imports_nothing_heavy():
    heavy = ["asyncio", "aiohttp", "kademlia", "rpcudp", "blake3", "http.client", "ssl", "email"]
    code = f"import sys, p2pkv.commands.client; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("threaded", [False, True], ids=["async", "command line"])
async def test_without_unix_sockets_the_loopback_address_serves(threaded, peer, home, monkeypatch):
    for module in ("p2pkv.gateway.ways", "p2pkv.gateway.http", "p2pkv.client"):
        monkeypatch.setattr(f"{module}.has_unix_sockets", lambda: False)
    gateway = Gateway(peer, home, ("127.0.0.1", 0))
    with pytest.raises(UnreachableError):
        await Same(CommandClient(home / "peer.sock")).call("status")
    await gateway.start()
    assert not (home / "peer.sock").exists()
    (home / "source").write_bytes(CONTENT)
    try:
        if threaded:
            await _use(Same(CommandClient(home / "peer.sock")), home)
        else:
            async with Client(home) as client:
                await _use(Same(client), home)
    finally:
        await gateway.stop()
    assert not (home / "http.url").exists()
    with pytest.raises(P2pkvError, match="HTTP is the only way in"):
        await Gateway(peer, home).start()


async def _use(client, home):
    await client.call("put", "k", b"v")
    assert [record.value for record in await client.all("get", "k")] == [b"v"]
    assert (await client.call("upload", home / "source", "f")).size == len(CONTENT)
    await client.call("download", "f", home / "target")
    assert (home / "target").read_bytes() == CONTENT
