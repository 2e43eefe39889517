"""Benchmarks: `python -m benchmarks` (`make bench`). Not tests, and not run by `make test`.

Read in this order: services (what the ends say to each other), networks, nodes, threads, tasks, end
(one end, a process; in Go it is go/internal/bench), machine, contenders (two ends), figures and
phases (what is measured), results, limits, svg, report, and __main__, which runs it all. profiles
says where the time goes.
"""
