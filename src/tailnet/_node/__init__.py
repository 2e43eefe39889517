"""A node of this process, once for both faces.

Read node.py (how it joins and leaves), then asking.py, listening.py, dialing.py and address.py.
"""
