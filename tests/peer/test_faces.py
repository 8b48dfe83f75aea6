"""`Peer` and `Client` are one interface: the same methods, the same arguments, the same results and errors."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path

import pytest

from p2pkv import Client, Peer
from p2pkv.errors import IncompleteError, InvalidError, NotFoundError, RefusedError
from p2pkv.outcomes import BatchChange, TransferProgress
from p2pkv.real_swarm import Swarm
from tests.peer.faces import FACES, Face, lone_face

OPERATIONS = (
    *(
        "put",
        "put_many",
        "put_batch",
        "get",
        "stream",
        "count",
        "delete",
        "keys",
        "watch",
        "upload",
        "download",
        "open_file",
    ),
    *(
        "list_files",
        "delete_file",
        "stat_file",
        "status",
        "peers",
        "where",
        "trace",
        "events",
        "verify",
        "repair",
        "seen_as",
    ),
)
CONTENT = bytes(range(256)) * 3000


@pytest.fixture(params=FACES)
async def both(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Swarm, Face]]:
    async with lone_face(request.param) as pair:
        yield pair


@pytest.fixture
def face(both: tuple[Swarm, Face]) -> Face:
    return both[1]


@pytest.fixture
def swarm(both: tuple[Swarm, Face]) -> Swarm:
    return both[0]


def _shape(method: object) -> list[tuple[str, object, object]]:
    parameters = inspect.signature(method).parameters.values()  # type: ignore[arg-type]
    return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]


@pytest.mark.parametrize("name", OPERATIONS)
def test_both_take_the_same_arguments(name: str) -> None:
    ours, theirs = getattr(Peer, name), getattr(Client, name)
    assert _shape(ours) == _shape(theirs)
    assert inspect.iscoroutinefunction(ours) == inspect.iscoroutinefunction(theirs)
    assert inspect.signature(ours).return_annotation == inspect.signature(theirs).return_annotation


def test_no_operation_is_left_out() -> None:
    life = {"start", "stop", "close", "wait_connected", "config", "address", "addresses", "home"}
    public = {name for face in (Peer, Client) for name in dir(face) if not name.startswith("_")}
    assert public - life == set(OPERATIONS)


async def test_records(face: Face) -> None:
    outcome = await face.put("k", b"one", name="a")
    assert outcome.reached
    assert outcome.name == "a"
    values = [b"two", b"\xff\x00"]
    assert [o.reached for o in [o async for o in face.put_many("k", values, ttl_s=60.0)]] == [True, True]
    records = [record async for record in face.get("k")]
    assert [record.value for record in records] == [b"one", b"two", b"\xff\x00"]
    assert records[0].version == outcome.version
    assert [r.value async for r in face.get("k", after=records[1].cursor)] == [b"\xff\x00"]
    assert [r.value async for r in face.get("k", limit=1, reverse=True)] == [b"\xff\x00"]
    assert [r.value async for r in face.get("k", name="a", order="name")] == [b"one"]
    assert await face.count("k") == 3
    assert [pair async for pair in face.keys("k")] == [(b"k", 3)]
    assert await face.delete("k", name="a") == 1
    assert await face.delete("k", acks="all") == 2
    assert await face.delete("k") == 0
    assert [r async for r in face.get("k")] == []


async def test_a_long_value_is_streamed(face: Face) -> None:
    value = CONTENT * 12  # beyond VALUE_IN_MEMORY_BYTES_MAX

    async def pieces() -> AsyncIterator[bytes]:
        for at in range(0, len(value), 100_000):
            yield value[at : at + 100_000]

    await face.put("k", pieces())
    (record,) = [record async for record in face.get("k")]
    assert (record.value, record.size) == (None, len(value))
    assert b"".join([piece async for piece in face.stream("k", record)]) == value


async def test_bytes_like_values_are_taken_and_text_is_not(face: Face) -> None:
    await face.put("k", bytearray(b"x"))  # type: ignore[arg-type]
    with pytest.raises(InvalidError, match="bytes"):
        await face.put("k", "text")  # type: ignore[arg-type]
    assert [r.value async for r in face.get("k")] == [b"x"]


async def test_refusals_name_what_stands(face: Face) -> None:
    first = await face.put("k", b"1", name="n", once=True)
    with pytest.raises(RefusedError) as caught:
        await face.put("k", b"2", name="n", once=True)
    assert caught.value.current == first.version
    changed = await face.put("k", b"1", name="m")
    await face.put("k", b"2", name="m", if_version=changed.version)
    with pytest.raises(RefusedError):
        await face.put("k", b"3", name="m", if_version=changed.version)
    for bad in ("", "x" * 1025):
        with pytest.raises(InvalidError):
            await face.put(bad, b"v")
    with pytest.raises(InvalidError):
        await face.put("k", b"v", once=True)


async def test_a_short_put_says_who_has_it(swarm: Swarm, face: Face) -> None:
    for peer in swarm.peers[1:]:
        await peer.stop(graceful=False)
    del swarm.peers[1:]
    with pytest.raises(IncompleteError) as caught:
        await face.put("k", b"v", acks="all")
    outcome = caught.value.outcome
    assert outcome is not None
    assert (outcome.stored, outcome.asked, len(outcome.failures)) == (1, 3, 2)


async def test_files(face: Face, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    steps: list[TransferProgress] = []
    link = await face.upload(str(source), "a/b", progress=steps.append)
    assert (link.name, link.size, link.files, link.replicas) == ("a/b", len(CONTENT), 1, 3)
    assert steps[-1].phase == "done"
    outcome = await face.download(link, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == CONTENT
    assert outcome.hash == link.hash
    await face.download("a/b", str(tmp_path / "part"), byte_range=(10, 19))
    assert (tmp_path / "part").read_bytes() == CONTENT[10:20]
    info, blocks = await face.open_file(link, byte_range=(0, 2))
    assert (info.name, b"".join([block async for block in blocks])) == ("a/b", CONTENT[:3])
    stat = await face.stat_file(link)
    assert stat.info == info
    assert stat.healthy
    with pytest.raises(NotFoundError):
        await face.download("a/c", tmp_path / "none")
    assert not (tmp_path / "none").exists()


async def test_streams_have_names_and_progress(face: Face) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield CONTENT

    steps: list[TransferProgress] = []
    outcome = await face.upload(pieces(), "s", to="a", progress=steps.append)
    assert (outcome.name, outcome.size) == ("a/s", len(CONTENT))
    assert max(step.done for step in steps) == len(CONTENT)
    with pytest.raises(InvalidError):
        await face.upload(pieces())


async def test_folders(face: Face, tmp_path: Path) -> None:
    folder = tmp_path / "f"
    (folder / "sub").mkdir(parents=True)
    (folder / "one").write_bytes(b"1")
    (folder / "sub" / "two").write_bytes(b"22")
    outcome = await face.upload(folder, to="up")
    assert (outcome.name, outcome.files, outcome.size) == ("up/f", 2, 3)
    assert [i.name async for i in face.list_files("up/f/")] == ["up/f/one", "up/f/sub/", "up/f/sub/two"]
    assert [i.name async for i in face.list_files("up/f/", recursive=False)] == ["up/f/one", "up/f/sub/"]
    back = await face.download(outcome, tmp_path / "back")
    assert (back.files, (tmp_path / "back/sub/two").read_bytes()) == (2, b"22")
    with pytest.raises(NotFoundError):
        await face.delete_file("up/none")
    assert await face.delete_file("up/f", recursive=True, acks="all") == 4
    assert [i.name async for i in face.list_files("up/f")] == []


async def test_what_failed_of_a_folder_is_told(face: Face, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "bad\nname").write_bytes(b"1")
    (tmp_path / "f" / "good").write_bytes(b"1")
    with pytest.raises(IncompleteError, match="1 of 3"):
        await face.upload(tmp_path / "f")
    assert [i.name async for i in face.list_files("f/")] == ["f/good"]


async def test_the_peer_tells_of_itself(swarm: Swarm, face: Face) -> None:
    await face.put("k", b"v")
    assert (await face.status()).node == swarm.peers[0].node.identity.node_id.hex()
    assert len(await face.peers()) == 2
    assert [replica.holds for replica in await face.where("k")] == [True] * 3
    assert len((await face.trace("k")).nearest) == 2
    assert (await face.verify())["records_damaged"] == []
    assert isinstance(await face.repair(), dict)
    assert {sighting.seen for sighting in await face.seen_as()} == {swarm.peers[0].address}


async def test_events_tell_of_puts_transfers_and_contacts(swarm: Swarm, face: Face, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x")
    found: list[dict[str, object]] = []
    listening = asyncio.Event()

    async def listen() -> None:
        async with aclosing(face.events()) as events:  # type: ignore[type-var]
            async for event in events:
                found.append(event)
                listening.set()

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        listener = tasks.create_task(listen())
        while not listening.is_set():
            await face.put("noise", b"")
        await face.put("k", b"v", name="n")
        await face.upload(tmp_path / "f")
        await face.download("f", tmp_path / "g")
        await face.delete("k")
        await swarm.add_peer()
        while not any(event["event"] == "contact" for event in found):
            await asyncio.sleep(0.01)
        listener.cancel()
    told = [(event["event"], event.get("phase")) for event in found if event.get("key") != "noise"]
    assert told[:6] == [
        *(("put", None), ("upload", "began"), ("upload", "done"), ("download", "began"), ("download", "done")),
        ("delete", None),
    ]
    assert {event["change"] for event in found if event["event"] == "contact"} == {"came"}


async def test_a_batch_is_all_or_nothing(face: Face) -> None:
    changes = [BatchChange("a", b"1", name="x"), BatchChange(b"\xff", b"\xfe", name="y"), BatchChange("c", b"unnamed")]
    outcome = await face.put_batch(changes)
    assert [record.key for record in outcome.records] == [b"a", b"\xff", b"c"]
    assert all(record.outcome.reached for record in outcome.records)
    assert [record.value async for record in face.get(b"\xff")] == [b"\xfe"]
    await face.put("c", b"for ever", name="z", once=True)
    with pytest.raises(RefusedError, match=r"nothing of the batch was stored.*c/z.*write-once"):
        await face.put_batch([BatchChange("a", b"2", name="x"), BatchChange("c", b"2", name="z")])
    assert [record.value async for record in face.get("a")] == [b"1"]
    assert (await face.put_batch([BatchChange("a", name="x", delete=True)])).records[0].deleted
    assert await face.count("a") == 0
    with pytest.raises(InvalidError):
        await face.put_batch([])
    with pytest.raises(InvalidError, match="majority"):
        await face.put_batch(changes, acks="1")
