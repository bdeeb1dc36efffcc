"""What can be measured of written texts before anything is trained on them."""
