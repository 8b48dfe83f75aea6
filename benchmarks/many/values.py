"""The values under the measured key: numbers of 32 bytes, so that a reader knows what is missing by one bit of each."""

from __future__ import annotations

VALUE_BYTES = 32


def value_of(number: int) -> bytes:
    return b"%0*d" % (VALUE_BYTES, number)


class Tally:
    """What a reader got of the numbers below a bound, in one bit of each."""

    def __init__(self, count: int) -> None:
        self.returned = 0
        self.doubled = 0
        self.foreign = 0  # values that nobody put
        self.out_of_order = 0
        self.count = count
        self._bits = bytearray((count + 7) // 8)
        self._last = -1

    def note(self, value: bytes | None) -> None:
        self.returned += 1
        try:
            number = int(value or b"")
        except ValueError:
            number = -1
        if not 0 <= number < self.count:
            self.foreign += 1
            return
        byte, bit = number >> 3, 1 << (number & 7)
        if self._bits[byte] & bit:
            self.doubled += 1
        elif number < self._last:  # they were put one after the other, by one clock
            self.out_of_order += 1
        self._bits[byte] |= bit
        self._last = number

    def has(self, number: int) -> bool:
        return bool(self._bits[number >> 3] & 1 << (number & 7))

    @property
    def distinct(self) -> int:
        return sum(byte.bit_count() for byte in self._bits)
