"""The programs: the command line, `serve` and its processes, and `check`."""
