"""The report's study, repeated on synthetic scans: a command a table (see `benchmarks.report.__main__`)."""
