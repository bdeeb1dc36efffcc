"""The paper's three studies and its headline in small: which recipes they are, what came out, and a picture of it."""
