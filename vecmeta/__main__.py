"""``python -m vecmeta``."""

from vecmeta.cli import main

main()
