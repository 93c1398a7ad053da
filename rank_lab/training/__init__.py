"""Training the methods that the papers compare: one registry, one trainer, ranks along the way."""
