"""What both parts share: options, access control, logs, servers.

`backend` imports this package and nothing else of `gateway`. `gateway` imports nothing of `backend` except in
`gateway/run/`: the command line and `serve` have the options of both parts and start both. `tests/test_layers.py` tests
it.
"""
