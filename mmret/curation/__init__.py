"""What may be used: licences of pictures, and what people accepted or rejected."""
