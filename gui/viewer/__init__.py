"""Look at a scan with its labels, compare two label maps, correct one."""
