"""The sockets that a program gets: a connection, a listener, and how others are given them.

Read connection.py, listener.py and handover.py.
"""
