"""A shell for files and records in a p2pkv swarm: an example application on the public API of p2pkv alone."""
