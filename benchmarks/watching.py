"""A watch of a key at a thousand updates a second: prints a JSON object of what was told, how often and how late.

`python -m benchmarks.watching --loss 5` is the measure of the project. Peers live in `--hosts` processes, two clients
in processes of their own put, a third one watches. Datagrams are lost in a network namespace of the benchmark's own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from argparse import Namespace
from contextlib import AsyncExitStack

from benchmarks import network
from benchmarks.many.processes import START_S_MAX, Answer, Worker, run, worker
from benchmarks.many.swarm import hosts
from benchmarks.report import Bar, bar_rows, table

KEY = "watched"
WRITERS = 2
CATCH_UP_S = 60.0


async def measure(options: Namespace) -> Answer:
    async with AsyncExitStack() as stack:
        swarm = await stack.enter_async_context(hosts(options.peers, options.hosts, options.store))
        clients: list[Worker] = []
        for _ in range(WRITERS + 1):
            clients.append(await stack.enter_async_context(worker("benchmarks.many.client", 0, *swarm.addresses)))
            await asyncio.wait_for(clients[-1].hear(), START_S_MAX)
        *writers, watcher = clients
        if options.loss:
            network.drop_datagrams(options.loss)
        await watcher.ask("watch", key=KEY, count=options.updates)
        share, rate = options.updates // len(writers), options.rate / len(writers)
        puts = await asyncio.gather(
            *(
                writer.ask(
                    "put_steadily",
                    key=KEY,
                    start=share * number,
                    stop=share * (number + 1),
                    per_s=rate,
                    batch=options.batch,
                )
                for number, writer in enumerate(writers)
            )
        )
        unclear = [number for answer in puts for number in answer.pop("unclear")]
        told = await watcher.ask("watched", unclear=unclear, within_s=CATCH_UP_S)
        return {
            "settings": vars(options),
            "put_per_s": sum(answer["per_s"] for answer in puts),
            "not_acknowledged": len(unclear),
            **told,
        }


def bars(result: Answer) -> list[Bar]:
    return [
        Bar("updates a second", result["put_per_s"], 0.98 * result["settings"]["rate"], True, "/s"),
        Bar("acknowledged, and not told", result["missed"], 0, False, ""),
        Bar("told twice, or never put", result["doubled"] + result["foreign"], 0, False, ""),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--rate", type=int, default=1000, help="records a second")
    parser.add_argument("--batch", type=int, default=1, help="records of one put")
    parser.add_argument("--peers", type=int, default=20)
    parser.add_argument("--hosts", type=int, default=2)
    parser.add_argument("--store", choices=["disk", "memory"], default="disk")
    parser.add_argument("--loss", type=int, default=0, metavar="PERCENT")
    options = parser.parse_args()
    if options.loss and not network.inside():
        network.run_inside("benchmarks.watching")
    result = run(measure(options))
    print(json.dumps(result, indent=1))
    print()
    print(table(["watch", "bar", "measured", ""], bar_rows(bars(result))))


if __name__ == "__main__":
    main()
