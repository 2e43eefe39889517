"""What drives the library: its calls, its answers, and the waiting for them.

It knows nothing of sockets or nodes. Read lib.py (the C contract), fd.py, ops.py and wait.py, then
logs.py, scratch.py, limits.py, signals.py and versions.py.
"""
