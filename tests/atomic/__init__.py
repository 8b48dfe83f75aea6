"""Atomic batches in whole swarms."""
