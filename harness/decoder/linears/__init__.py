"""Linear layers of mixers and feed-forwards: a module for each kind, with its class as `PART`."""
