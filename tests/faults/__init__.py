"""What happens when the disk is full, a file may not be written, or the process is killed at any instant."""
