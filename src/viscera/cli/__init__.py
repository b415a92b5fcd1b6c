"""The command `viscera`: one verb per file; command.py finds the verb."""
