"""Where organs, bones and fat of a procedural patient lie, and how one patient departs from the average."""
