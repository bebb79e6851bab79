"""What mixes tokens: a module for each kind, with its class as `PART`."""
