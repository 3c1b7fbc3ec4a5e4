"""Everything that makes networks: synthetic legs, data preparation, training."""
