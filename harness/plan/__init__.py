"""From a command line to trials in processes of their own; imports no torch."""
