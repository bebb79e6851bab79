"""How a mixer and a feed-forward make a layer: a module for each kind, with its class as `PART`."""
