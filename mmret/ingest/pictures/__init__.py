"""The pictures themselves: decoding, what lies beside their pixels, and how the lake stores them."""
