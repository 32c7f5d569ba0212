"""The report of a run: read from its folder, written as one HTML file."""
