"""Judges a history of calls by what users are promised. Knows nothing of how the store works.

Every function returns what it found wrong, as sentences. Times decide: a call that ended before another began came
before it. A version token orders the versions of one record that was put without consensus.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.histories.history import Call, History

ABSENT = b""


def check(history: History) -> list[str]:
    """Everything that is wrong with a history."""
    faults: list[str] = []
    for key in {call.key: None for call in history.calls}:
        faults += _check_added(history, key)
        faults += _check_counts(history, key)
        registers = {call.name for call in history.of("cas", key=key)}
        for name in {call.name: None for call in history.of("put", key=key) if call.name not in registers}:
            faults += _check_replaced(history, key, name)
        for name in {call.name: None for call in history.of("once", key=key)}:
            faults += _check_once(history, key, name)
        for name in {call.name: None for call in history.of("cas", key=key)}:
            faults += _check_register(history, key, name)
    return faults


def _sightings(history: History, key: str, name: str) -> Iterator[tuple[Call, tuple[bytes, str] | None]]:
    """What complete answers told of a record; None: that it is not there."""
    for call in history.of("read", "list", key=key):
        if call.told == "done" and (call.op == "list" or call.name == name):
            yield call, call.seen.get(name)


def _check_added(history: History, key: str) -> list[str]:
    """Each record that was acknowledged is in every complete answer from then on, until somebody may delete it."""
    faults = []
    adds = [call for call in history.of("add", key=key) if call.told == "done"]
    attempted = {call.value for call in history.of("add", "put", "once", "cas", key=key)}
    deletes = history.of("delete", key=key)
    for answer in history.of("list", key=key):
        if answer.told != "done":
            continue
        for add in adds:
            deleted = any(d.name == add.name and d.began_s <= answer.ended_s for d in deletes)
            if add.ended_s < answer.began_s and add.name not in answer.seen and not deleted:
                faults.append(f"lost: {_told(add)} is not in {_told(answer)}")
        faults += [f"invented: {_told(answer)} has {v!r}" for v, _ in answer.seen.values() if v not in attempted]
    return faults


def _check_counts(history: History, key: str) -> list[str]:
    """A count lies between what was surely there during it and what may have been."""
    faults = []
    deleted = {call.name: call.began_s for call in history.of("delete", key=key)}
    adds = history.of("add", key=key)
    named: dict[str, list[Call]] = {}
    for call in history.of("put", "once", "cas", key=key):
        named.setdefault(call.name, []).append(call)
    for count in history.of("count", key=key):
        if count.told != "done":
            continue
        surely = sum(a.told == "done" and a.ended_s < count.began_s and a.name not in deleted for a in adds)
        surely += sum(
            name not in deleted and any(c.told == "done" and c.ended_s < count.began_s for c in calls)
            for name, calls in named.items()
        )
        maybe = sum(call.began_s < count.ended_s for call in adds)
        maybe += sum(any(call.began_s < count.ended_s for call in calls) for calls in named.values())
        if not surely <= count.counted <= maybe:
            faults.append(f"miscounted: {_told(count)} says {count.counted}, there were {surely} to {maybe}")
    return faults


def _check_replaced(history: History, key: str, name: str) -> list[str]:
    """A record that many replace and delete: never older than what was acknowledged, never back from a deletion."""
    faults = []
    puts = history.of("put", key=key, name=name)
    deletes = history.of("delete", key=key, name=name)
    by_value = {call.value: call for call in puts}
    for answer, seen in _sightings(history, key, name):
        before = [p for p in puts if p.told == "done" and p.ended_s < answer.began_s]
        if seen is None:
            unburied = [
                p for p in before if not any(d.ended_s > p.began_s and d.began_s < answer.ended_s for d in deletes)
            ]
            faults += [f"lost: {_told(p)} is not in {_told(answer)}" for p in unburied[:1]]
            continue
        value, token = seen
        write = by_value.get(value)
        if write is None:
            faults.append(f"invented: {_told(answer)} has {value!r}")
            continue
        if write.version and write.version != token:
            faults.append(f"changed: {_told(answer)} has {token} of {_told(write)}, which was {write.version}")
        newer = [p for p in before if p.version > token]
        faults += [f"stale: {_told(answer)} has {value!r}, {_told(p)} came before" for p in newer[:1]]
        buried = [d for d in deletes if d.told == "done" and write.ended_s < d.began_s and d.ended_s < answer.began_s]
        faults += [f"back: {_told(answer)} has {value!r}, {_told(d)} came before" for d in buried[:1]]
    return faults


def _check_once(history: History, key: str, name: str) -> list[str]:
    """One writer at most is told yes, and nobody ever reads anything else."""
    faults = []
    writes = history.of("once", key=key, name=name)
    winners = [call for call in writes if call.told == "done"]
    if len(winners) > 1:
        faults.append(f"two winners: {' and '.join(map(_told, winners))}")
    read = {seen[0] for _, seen in _sightings(history, key, name) if seen is not None}
    told = read | {call.value for call in winners}
    if len(told) > 1:
        faults.append(f"write-once {key}/{name} had the values {sorted(told)}")
    if not told <= {call.value for call in writes}:
        faults.append(f"invented: {key}/{name} had {sorted(told)}")
    for answer, seen in _sightings(history, key, name):
        before = [w for w in winners if w.ended_s < answer.began_s]
        if seen is None and before:
            faults.append(f"lost: {_told(before[0])} is not in {_told(answer)}")
    refused_for_nothing = [
        call
        for call in writes
        if call.told == "refused" and not any(o.began_s < call.ended_s for o in writes if o is not call)
    ]
    return faults + [f"refused for nothing: {_told(call)}" for call in refused_for_nothing]


# --- compare-and-set: is there an order? (Wing and Gong 1993) ---


def _check_register(history: History, key: str, name: str) -> list[str]:
    """Writes and compare-and-sets of one record, with the reads of it, must fit one order that respects their times."""
    writes = history.of("put", "cas", key=key, name=name)
    calls = list(writes)
    for answer, seen in _sightings(history, key, name):
        read = Call(answer.client, "read", key, name, answer.began_s, seen[0] if seen else ABSENT)
        read.ended_s, read.told = answer.ended_s, "done"
        calls.append(read)
    if linearizable(calls):
        return []
    without_reads = "" if linearizable(writes) else ", even without its reads"
    return [f"no order of the {len(calls)} calls on {key}/{name} explains what was told{without_reads}"]


def linearizable(calls: list[Call]) -> bool:
    """Is there one order of the calls, in which each takes effect within its time, that gives what was told?"""
    calls = sorted(calls, key=lambda call: call.began_s)
    index = {id(call): number for number, call in enumerate(calls)}
    must = sum(1 << index[id(call)] for call in calls if call.told != "unknown")
    seen: set[tuple[int, bytes]] = set()
    stack = [(0, ABSENT)]
    while stack:
        done, state = stack.pop()
        if done & must == must:
            return True
        if (done, state) in seen:
            continue
        seen.add((done, state))
        left = [call for call in calls if not done >> index[id(call)] & 1]
        first_end_s = min((call.ended_s for call in left if call.told != "unknown"), default=float("inf"))
        for call in left:
            if call.began_s > first_end_s:
                break
            after = _step(call, state)
            if after is not None:
                stack.append((done | 1 << index[id(call)], after))
    return False


def _step(call: Call, state: bytes) -> bytes | None:
    """The state after a call that takes effect now; None where it would have been told something else."""
    if call.op == "read":
        return state if state == call.value else None
    if call.op == "put":
        return call.value
    matches = state == call.expected
    if call.told == "refused":
        return None if matches else state
    return call.value if matches else None


def _told(call: Call) -> str:
    return (
        f"{call.op} {call.key}/{call.name} {call.value!r} by {call.client} at {call.began_s:.2f}..{call.ended_s:.2f} s"
    )
