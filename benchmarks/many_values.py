"""Many records under one key: prints a JSON object of what was put, read and counted, and a table of the bars.

`python -m benchmarks.many_values --records 1000000 --rivals` is the measure of the project; `--loss 5` and
`--kill-third` impair the swarm once everything is put, with `--late` only once it was measured unimpaired: then all
can be had of one swarm. Peers live in `--hosts` processes, and every client in one of
its own: one writes, one reads, and a third one counts over a line of 100 ms, so that its round trips can be told.
Loss is made by the kernel's packet filter, in a network namespace of the benchmark's own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from argparse import Namespace
from contextlib import AsyncExitStack
from typing import Any

from benchmarks import network
from benchmarks.many import bars
from benchmarks.many.processes import START_S_MAX, Answer, Worker, run, worker
from benchmarks.many.swarm import Hosts, hosts

KEY = "many"
FEW_KEYS = [f"few {number}" for number in range(4)]  # several, so that no single set of replicas decides
FEW_RECORDS = 1000
SINGLE_PUTS = 300
FAR_MS = 100


class Run:
    """One swarm, its clients, and the phases of the measurement."""

    def __init__(self, options: Namespace, swarm: Hosts, writer: Worker, reader: Worker, far: Worker) -> None:
        self._options = options
        self._swarm = swarm
        self._writer, self._reader, self._far = writer, reader, far
        self._total = 0  # numbers under the key
        self._unclear: list[int] = []  # of them, those that were not acknowledged

    async def all(self) -> Answer:
        _say("put")
        result: Answer = {"write": await self._write()}
        _say(json.dumps(result))
        if not self._options.late:
            result |= await self._impair()
        _say("read at once")
        result["read at once"] = await self._read()
        _say("wait until nothing moves")
        quiet = await self._swarm.quiet(self._options.quiet_s)
        result["quiet"] = quiet._asdict()
        _say(json.dumps(result["read at once"] | result["quiet"]))
        _say("read, count, single puts")
        result["read when quiet"] = await self._read()
        result["count"] = await self._count()
        result["single puts"] = await self._put_in_turn()
        result["count at the end"] = await self._reader.ask("count", key=KEY) | {"expected": self._total}
        result["memory"] = {"writer_mb": self._writer_mb, "reader_mb": (await self._reader.ask("memory"))["mb"]}
        result["held"] = await self._held()
        if self._options.late:
            _say(json.dumps(result["read when quiet"]))
            result |= await self._late()
        _say(json.dumps(result))  # whatever becomes of the rival
        return result

    async def _impair(self) -> Answer:
        if self._options.loss and not self._options.loss_for_puts:
            network.drop_datagrams(self._options.loss)
        return await self._kill(self._writer) if self._options.kill_third else {}

    async def _kill(self, client: Worker) -> Answer:
        """`client`: one that knows the key's pages."""
        places = (await client.ask("pages", key=KEY))["places"]
        return {"killed": self._swarm.kill_a_third(), "fewest_replicas_left": self._swarm.fewest_left(places)}

    async def _late(self) -> Answer:
        """Read once more under loss, and once more without it when a third of the peers are dead."""
        result: Answer = {}
        if self._options.loss:
            _say("read under loss")
            network.drop_datagrams(self._options.loss)
            result["read under loss"] = await self._read()
            network.carry_all()
        if self._options.kill_third:
            result |= await self._kill(self._reader)
            _say(f"read with {result['killed']} peers killed, {result['fewest_replicas_left']} replicas left of a page")
            result["read with a third killed"] = await self._read()
        return result

    async def _write(self) -> Answer:
        for key in FEW_KEYS:
            await self._writer.ask("put_many", key=key, start=0, stop=FEW_RECORDS)
        if self._options.loss and self._options.loss_for_puts:
            network.drop_datagrams(self._options.loss)
        answer = await self._writer.ask("put_many", key=KEY, start=0, stop=self._options.records)
        self._total = answer.pop("stopped_at")
        self._unclear = answer.pop("unclear")
        self._writer_mb = (await self._writer.ask("memory"))["mb"]
        return answer

    async def _read(self) -> Answer:
        return await self._reader.ask("read", key=KEY, count=self._total, unclear=self._unclear)

    async def _count(self) -> Answer:
        """Each client twice: the first count learns of the key's pages, the second is what a count costs then."""
        await self._reader.ask("count", key=KEY)
        near = await self._reader.ask("count", key=KEY)
        first = await self._far.ask("count", key=KEY)
        far = await self._far.ask("count", key=KEY)
        return near | {
            "expected": self._total,
            "unclear": len(self._unclear),
            "bytes_with_page_list": first.get("bytes"),
            "requests_with_page_list": first.get("requests"),
            "round_trips_with_page_list": _round_trips(first),
            "round_trips": _round_trips(far),
        }

    async def _put_in_turn(self) -> Answer:
        answer = await self._writer.ask(
            "put_in_turn", few=FEW_KEYS, few_from=FEW_RECORDS, many=KEY, many_from=self._total, count=SINGLE_PUTS
        )
        self._total += answer["put"]
        return answer

    async def _held(self) -> Answer:
        answers = await self._swarm.ask("holds", key=KEY)
        held = [count for answer in answers for count in answer["held"]]
        return {
            "most_over_mean": round(max(held) * len(held) / sum(held), 3),
            "replicas": round(sum(held) / self._total, 2),
            "records": held,
            "host_mb": [answer["mb"] for answer in answers],
        }


def _round_trips(answer: Answer) -> int | None:
    """Over the long line; None where the operation failed."""
    return int(answer["ms"] // FAR_MS) if "ms" in answer else None


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


async def measure(options: Namespace) -> Answer:
    async with AsyncExitStack() as stack:
        swarm = await stack.enter_async_context(hosts(options.peers, options.hosts, options.store))
        clients: list[Worker] = []
        for delay_ms in (0, 0, FAR_MS):
            made = worker("benchmarks.many.client", delay_ms, *swarm.addresses)
            clients.append(await stack.enter_async_context(made))
            idle_mb = await asyncio.wait_for(clients[-1].hear(), START_S_MAX)
        return await Run(options, swarm, *clients).all() | {"client_idle_mb": idle_mb}


async def measure_rival(options: Namespace) -> Answer:
    from benchmarks.many import open_dht  # which need not be installed

    faults: list[Any] = []
    if options.kill_third:
        faults.append(lambda workers: workers[-1].kill())
    if options.loss:
        network.carry_all()
        faults.append(lambda _: network.drop_datagrams(options.loss))
    hosts = 3 if options.kill_third else options.hosts
    return await open_dht.measure(options.records, options.peers, hosts, options.rival_s, faults)


async def everything(options: Namespace) -> Answer:
    names = ("records", "peers", "hosts", "store", "loss", "loss_for_puts", "kill_third", "late")
    result: Answer = {"settings": {name: getattr(options, name) for name in names}, **await measure(options)}
    if options.rivals:
        _say("OpenDHT")
        result["opendht"] = await measure_rival(options)
    return result


def parse() -> Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--peers", type=int, default=20)
    parser.add_argument("--hosts", type=int, help="processes that hold the peers; 2, or 3 where a third is killed")
    parser.add_argument("--store", choices=["disk", "memory"], default="disk")
    parser.add_argument("--loss", type=int, default=0, metavar="PERCENT", help="of datagrams, once everything is put")
    parser.add_argument("--loss-for-puts", action="store_true", help="lose datagrams while it is put, too")
    parser.add_argument("--kill-third", action="store_true", help="kill a third of the peers behind the last put")
    parser.add_argument("--late", action="store_true", help="impair the swarm at the end, and read once more")
    parser.add_argument("--rivals", action="store_true", help="OpenDHT beside it")
    parser.add_argument("--rival-s", type=float, default=120.0, help="time for OpenDHT's puts, and for its get")
    parser.add_argument("--quiet-s", type=float, default=900.0, help="wait so long at most until nothing moves")
    options = parser.parse_args()
    if options.rivals:
        from benchmarks.many import open_dht  # noqa: F401 - is it installed? It is asked for in half an hour only
    options.hosts = options.hosts or (3 if options.kill_third else 2)
    return options


def main() -> None:
    options = parse()
    if options.loss and not network.inside():
        network.run_inside("benchmarks.many_values")
    result = run(everything(options))
    print(json.dumps(result, indent=1))
    print()
    print(bars.render(result))


if __name__ == "__main__":
    main()
