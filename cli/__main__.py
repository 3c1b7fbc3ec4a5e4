"""`python -m cli` is `lls`."""

from cli.main import main

main()
