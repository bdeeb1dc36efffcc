"""FashionIQ: composed image retrieval of garments, by category."""
