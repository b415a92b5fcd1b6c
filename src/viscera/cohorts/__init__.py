"""Many results of viscera predict -> one table: a row per scan and organ, with how each was made."""
