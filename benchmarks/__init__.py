"""Benchmarks of p2pkv beside others. `run.py` runs them all and writes RESULTS.md."""
