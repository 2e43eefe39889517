"""Benchmarks: `python -m benchmarks` (`make bench`). Not timed tests, and not run by `make test`."""
