"""What is behind the configuration of a node: immutable settings, keys and files.

Read settings.py, keys.py and files.py; the settings themselves are in tailnet/config.py.
"""
