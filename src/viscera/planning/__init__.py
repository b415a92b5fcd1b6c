"""A recipe from the data and the machine: fingerprint, short timed steps of candidates, and choices that say why."""
