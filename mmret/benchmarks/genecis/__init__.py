"""GeneCIS: conditional similarity over small galleries."""
