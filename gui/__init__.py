"""The page: everything that `lls` does, for people who never open a terminal. See docs/gui.md."""
