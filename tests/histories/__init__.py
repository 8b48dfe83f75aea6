"""Whole swarms under faults, with every call recorded and judged by an independent checker."""
