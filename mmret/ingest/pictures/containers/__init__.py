"""What in a picture's file decides its pixels and what merely lies beside them: a module per container."""
