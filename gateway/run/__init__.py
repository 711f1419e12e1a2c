"""The programs: the command line, `serve`, its processes and workers, and their hand-over to new ones."""
