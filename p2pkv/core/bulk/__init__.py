"""Bulk transfer: chunks between two peers over UDP, as a protocol that does no IO.

From the ground up: `ranges` (sets of numbers), `packets` (the byte layout), `rtt`, `recovery` (what is in flight,
what is lost), `congestion` with `model` and `cubic` (how much may be in flight), `pacing`, `mtu`, `messages` and
`streams` (what is carried), `handshake` (proof of address) and `connection`, which steps them all. Time and
randomness are arguments.
"""
