"""Reference labels of slices of two real adults' legs, and how well a network agrees with them."""
