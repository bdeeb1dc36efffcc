"""What a materialisation shows in the UI: schema, preview, charts, sample triplets, where each column comes from."""
