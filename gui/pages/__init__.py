"""The pages, one a module; each has ``register(desk)``."""
