"""What may be used, and for what: licences of pictures, what people accepted or rejected, what is held out."""
