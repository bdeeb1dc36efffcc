"""From folders, manifests, tars and releases to sealed shards of pictures; what cannot be taken is a reject with a reason."""
