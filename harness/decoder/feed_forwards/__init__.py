"""What works on each token alone: a module for each kind, with its class as `PART`."""
