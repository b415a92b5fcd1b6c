"""Cross-validation: training (running.py), scores (held_out.py), and what several such runs are worth (choosing.py)."""
