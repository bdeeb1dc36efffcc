"""Tables that name pictures and captions, in every dialect people write them in, and tables that hold the pictures."""
