"""Decides which triplets are used for what: by licences of pictures, by what people accepted or rejected, by what is held out."""
