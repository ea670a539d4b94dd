"""``python -m lrscope`` is the command line."""

from lrscope.cli import main

if __name__ == "__main__":
    main()
