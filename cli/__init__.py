"""The `lls` command: parse, call, print."""
