"""Fuzzing of everything that viscera reads: `make fuzz` (run.py); a short run is in `make test` (tests/fuzz/)."""
