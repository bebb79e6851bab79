"""How a token's place is told: a module for each kind, with its class as `PART`."""
