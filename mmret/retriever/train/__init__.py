"""One training loop for every kind of retriever: InfoNCE, GradCache, several processes, exact resume."""
