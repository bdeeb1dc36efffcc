"""Takes pictures from folders, manifests, tars and releases into sealed shards; what cannot be used is a reject with a reason."""
