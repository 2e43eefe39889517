"""Benchmarks: `python -m benchmarks` (`make bench`). Not tests, and not run by `make test`."""
