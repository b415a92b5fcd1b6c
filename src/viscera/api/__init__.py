"""What ``import viscera`` offers: thin functions over the rooms below, each with the checks that a user's input needs."""
