"""What many records under one key are to cost, and what they did: a table in Markdown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from benchmarks.report import Bar, bar_rows, table

READS = ("read at once", "read when quiet", "read under loss", "read with a third killed")


def bars(result: dict[str, Any]) -> Iterator[Bar]:
    write, count, memory = result["write"], result["count"], result["memory"]
    yield Bar("written, acknowledged by a majority", write["per_s"], 5000, True, "records/s")
    for what in READS:
        if what not in result:
            continue
        read = result[what]
        yield Bar(f"{what}: returned of what was acknowledged", read["percent"], 100, True, "%")
        yield Bar(f"{what}: interruptions", read["interruptions"], 0, False, "")
        wrong = read["doubled"] + read["foreign"] + read["out_of_order"]
        yield Bar(f"{what}: doubled, foreign or out of order", wrong, 0, False, "")
        yield Bar(f"{what}: first value", read["first_ms"], 100, False, "ms")
        yield Bar(f"{what}: one client reads", read["per_s"], 20_000, True, "records/s")
    yield Bar("client memory while writing", memory["writer_mb"], 150, False, "MB")
    yield Bar("client memory while reading", memory["reader_mb"], 150, False, "MB")
    yield Bar("most records of the key on one peer, the mean = 1", result["held"]["most_over_mean"], 2, False, "x")
    yield Bar("one more put, to a key of 1,000 records = 1", result["single puts"]["ratio"], 1.2, False, "x")
    off = abs(count["count"] - count["expected"]) - count.get("unclear", 0)
    yield Bar("count: off by", max(0, off), 0, False, "records")
    if "bytes" in count:
        yield Bar("count: on the client's line", count["bytes"] / 1000, 100, False, "KB")
    if (
        not result["settings"]["loss"] or result["settings"]["late"]
    ):  # else they are mostly those of datagrams sent again
        trips = math.inf if count["round_trips"] is None else count["round_trips"]
        yield Bar("count: round trips beyond the page list", trips, 2, False, "")


def render(result: dict[str, Any]) -> str:
    settings = result["settings"]
    faults = [f"{settings['loss']} % loss"] if settings["loss"] else []
    if settings["kill_third"]:
        faults.append(f"{result['killed']} peers killed (of some page {result['fewest_replicas_left']} replicas left)")
    faults = [", then ".join(faults) + " at the end"] if settings["late"] else faults
    what = ", ".join([f"{settings['records']:,} records of 32 bytes", f"{settings['peers']} peers", *faults])
    heads = [f"p2pkv, {settings['store']}: {what}", "bar", "measured", ""]
    parts = [table(heads, bar_rows(bars(result)))]
    if "opendht" in result:
        parts.append(_rival(result))
    return "\n\n".join(parts)


def _rival(result: dict[str, Any]) -> str:
    ours, theirs = result["read at once"], result["opendht"]
    rows = [
        ["acknowledged", f"{result['write']['acknowledged']:,}", f"{theirs['acknowledged']:,} of {theirs['tried']:,}"],
        ["put, records/s", f"{result['write']['per_s']:,}", f"{theirs['per_s']:,}"],
        ["returned", f"{ours['returned']:,}", f"{theirs['returned']:,}"],
        ["said", "complete" if ours["complete"] else ours["first_error"], f"{theirs['told']} in {theirs['read_s']} s"],
        ["first value, ms", f"{ours['first_ms']:g}", f"{theirs['first_ms'] or 'none'}"],
        ["read, records/s", f"{ours['per_s']:,}", f"{theirs['read_per_s']:,}"],
    ]
    return table(["read at once", "p2pkv", "OpenDHT, in memory"], rows)
