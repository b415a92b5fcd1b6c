"""Networks: one architecture per file, each with its source."""
