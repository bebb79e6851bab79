"""One file for each command beside `run` and `report`."""
