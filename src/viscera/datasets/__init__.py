"""Data sets on disk, one layout per file: which cases a folder holds, which organs each annotates. Synthetic ones, too."""
