"""The recipes: one system per file, each value with its source. To add one, write a file and name it in catalogue.py."""
