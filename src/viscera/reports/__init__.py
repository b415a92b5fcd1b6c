"""Self-contained HTML pages: of a run, an evaluation, a store, a study; the interactive viewer; a browser for notebooks."""
