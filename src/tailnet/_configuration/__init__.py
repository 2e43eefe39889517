"""What is behind the configuration of a node: tailnet/config.py has the settings themselves.

Read settings.py (immutable models that raise our errors) and fields.py (what there is to say of a
field), then names.py, paths.py, keys.py, files.py, reading.py, environment.py and places.py.
"""
