"""Inside a trial's process: load, step, measure; imports no Hydra."""
