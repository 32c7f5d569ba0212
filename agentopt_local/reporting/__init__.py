"""What a run left, as a picture: read from its folder, written as one HTML file."""
