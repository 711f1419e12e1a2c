"""The command `moorline`, and `python -m moorline`.

It imports nothing before `main` has begun: Ctrl-C while modules are read would print a traceback.
"""

__all__ = ["main"]


def main() -> int:
    """Run the command line; the exit status."""
    try:
        from moorline.gateway.common import collection

        collection.begin()
        from moorline.gateway.run import cli
    except KeyboardInterrupt:
        return 130
    try:
        return cli.main()
    finally:
        collection.end()


if __name__ == "__main__":
    raise SystemExit(main())
