"""How layers follow each other: a module for each kind, with its class as `PART`."""
