"""Patients from a label map that a user has: what it says, what it lacks, and another patient made of it."""
