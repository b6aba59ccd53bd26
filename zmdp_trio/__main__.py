"""`python -m zmdp_trio` is the `zmdp` command."""

from zmdp_trio.cli import main

if __name__ == "__main__":
    main()
