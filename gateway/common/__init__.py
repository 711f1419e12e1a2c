"""What both parts stand on: options, access control, logs, listening.

`backend` imports this package and nothing else of `gateway`; `gateway` imports nothing of `backend`. The one
exception are the two `__main__` modules, which read the other part's option names. `tests/test_layers.py` holds both.
"""
