"""Pictures by their addresses: ``url_list`` reads a table of them as a source, ``download`` fetches the files, each once.

Only what a source names ``urls:FILE`` is fetched. Everything else that holds addresses is refused as before.
"""
