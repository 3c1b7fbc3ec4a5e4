"""Where a network breaks: synthetic scans made worse in steps."""
