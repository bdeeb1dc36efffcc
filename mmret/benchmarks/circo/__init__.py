"""CIRCO: composed image retrieval with several true targets a query, over COCO's unlabelled images."""
