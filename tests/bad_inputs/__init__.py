"""Bad inputs, each with the command that meets it, and what must be said to it."""
